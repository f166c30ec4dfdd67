"""``paceline plan`` from the command line, and configurations without weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plan_models import GEMMA_3_1B, LLAMA_3_8B, MIXTRAL_8X7B
from typer.testing import CliRunner, Result

from paceline.bench.plan import this_machine
from paceline.bench.plan.machines import cpu_machine
from paceline.bench.roofline.device import device_ceilings
from paceline.bench.roofline.work import Ceilings
from paceline.cli import app
from paceline.errors import ModelLoadError
from paceline.models.configuration import read_configuration

RATES = {"q4": 3e11, "q8": 5e11, "bf16": 2e11, "f32": 1e11}


@pytest.fixture
def model(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    def write(config: dict[str, Any]) -> str:
        folder = tmp_path / str(config["model_type"])
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    return write


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_plan_for_a_gpu_needs_nothing_but_a_config(model: Callable[[dict[str, Any]], str], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    options = ["--gpu", "h100", "--qps", "20", "--dollars-per-hour", "2", "--json", str(file)]
    result = run(model(LLAMA_3_8B), *options)
    assert result.exit_code == 0, result.output
    assert "8,030,261,248" in result.output and "131,072" in result.output
    assert "$ per million output tokens" in result.output
    data = json.loads(file.read_text())
    assert (data["parameters"], data["kv_bytes_per_token"], data["fits"]) == (8_030_261_248, 131_072, True)
    chosen = next(form for form in data["formats"] if form["name"] == data["chosen"])
    fleet = chosen["fleets"]["without drafts"]
    cost = fleet["machines"] * 2 / 3600 / (20 * 50) * 1e6
    assert fleet["dollars_per_million_output_tokens"] == pytest.approx(cost)
    assert set(data["curves"]) == {"without drafts", "with drafts"}


def test_a_model_that_does_not_fit_is_a_plan_with_another_exit_status(model: Callable[[dict[str, Any]], str]) -> None:
    result = run(model(MIXTRAL_8X7B), "--gpu", "t4")
    assert result.exit_code == 1
    assert "does not fit NVIDIA T4" in result.output
    assert "It would fit with --tensor-parallel 2" in result.output


def test_more_requests_at_a_time_than_fit_are_told(model: Callable[[dict[str, Any]], str]) -> None:
    result = run(model(LLAMA_3_8B), "--gpu", "l4", "--weights", "bf16", "--concurrency", "200")
    assert result.exit_code == 0, result.output
    assert "fewer than the 200 asked for" in result.output


def test_windows_are_shown_with_the_cache_of_a_request(model: Callable[[dict[str, Any]], str]) -> None:
    result = run(model(GEMMA_3_1B), "--gpu", "l4", "--in", "5000", "--out", "1000")
    assert result.exit_code == 0, result.output
    assert "the whole context, 512 tokens" in result.output
    assert f"{(4 * 6000 + 22 * 512) * 1024:,}" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "k80"], "no GPU 'k80' in the table"),
        (["--gpu", "h100", "--cpu"], "exclude each other"),
        (["--tensor-parallel", "2"], "name one with --gpu"),
        (["--gpu", "h100", "--tensor-parallel", "3"], "does not divide the model's 32 attention heads"),
        (["--gpu", "h100", "--qps", "0"], "--qps 0 must be more than 0"),
        (["--gpu", "h100", "--acceptance-length", "7"], "impossible with 3 draft tokens"),
        (["--gpu", "h100", "--in", "9000"], "more than the model's context of 8192"),
        (["--gpu", "h100", "--weights", "fp4"], "no format 'fp4'"),
        (["--gpu", "h100", "--dollars-per-hour", "-1"], "must not be negative"),
    ],
)
def test_bad_wishes_are_one_line(options: list[str], message: str, model: Callable[[dict[str, Any]], str]) -> None:
    result = run(model(LLAMA_3_8B), *options)
    assert result.exit_code == 2
    errors = [line for line in result.output.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and message in errors[0]


def test_here_is_refused_where_torch_sees_no_gpu(
    model: Callable[[dict[str, Any]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(model(LLAMA_3_8B), "--gpu", "here")
    assert result.exit_code == 2
    assert "torch sees no CUDA device" in result.output


def test_unsupported_architectures_are_refused_by_name(model: Callable[[dict[str, Any]], str]) -> None:
    result = run(model({"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]}), "--gpu", "h100")
    assert result.exit_code == 2
    assert "DeepseekV3ForCausalLM" in result.output and "not supported" in result.output


def test_plan_for_this_machine(model: Callable[[dict[str, Any]], str], monkeypatch: pytest.MonkeyPatch) -> None:
    machine = cpu_machine(2, 64 * 10**9, Ceilings(3e10, RATES), bf16=True)
    monkeypatch.setattr(this_machine, "this_cpu", lambda threads: (machine, True))
    result = run(model(LLAMA_3_8B))
    assert result.exit_code == 0, result.output
    assert "this machine, 2 threads" in result.output
    assert "as a GGUF file (Q8_0)" in result.output


@pytest.mark.model
def test_a_gguf_file_is_planned_as_it_is_stored(default_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = cpu_machine(2, 64 * 10**9, Ceilings(3e10, RATES), bf16=True)
    monkeypatch.setattr(this_machine, "this_cpu", lambda threads: (machine, True))
    result = run(str(default_model), "--cpu")
    assert result.exit_code == 0, result.output
    assert "as stored (Q4_1)" in result.output and "134,515,008" in result.output


def test_this_cpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("paceline._cpu", reason="the native core was not built")
    monkeypatch.setattr("paceline.bench.roofline.multiply.SIZES", (64,))
    monkeypatch.setattr("paceline.bench.roofline.ceilings.memory_size", lambda: 1 << 20)
    machine, _ = this_machine.this_cpu(threads=1)
    assert set(machine.ceilings.rates) == {"q4", "q8", "bf16", "f32"}
    assert machine.ceilings.bandwidth > 1e8
    assert machine.memory > 1e8


def test_a_device_is_measured_by_copies_and_products() -> None:
    ceilings = device_ceilings(torch.device("cpu"), copy_bytes=1 << 20, size=64)
    assert ceilings.bandwidth > 1e8
    assert {"bf16", "f32"} <= set(ceilings.rates)


@pytest.mark.model
def test_configurations_come_from_files_folders_and_headers(tmp_path: Path, default_model: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))
    folder, file = read_configuration(str(tmp_path)), read_configuration(str(tmp_path / "config.json"))
    assert folder.config == file.config == LLAMA_3_8B
    assert folder.name == file.name == tmp_path.name
    header = read_configuration(str(default_model))
    assert header.config["num_hidden_layers"] == 30
    assert sum(tensor.parameters for tensor in header.tensors.values()) == 134_515_008


def test_a_hub_file_is_refused_with_what_to_do() -> None:
    with pytest.raises(ModelLoadError, match="name its original repository"):
        read_configuration("someone/some-model-GGUF/some-model.Q4_K_M.gguf")


def test_a_hub_id_is_only_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def download(repository: str, filename: str, **_: object) -> str:
        asked.append((repository, filename))
        (tmp_path / filename).write_text(json.dumps(LLAMA_3_8B))
        return str(tmp_path / filename)

    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = read_configuration("meta-llama/Meta-Llama-3-8B")
    assert (found.name, found.config) == ("Meta-Llama-3-8B", LLAMA_3_8B)
    assert asked == [("meta-llama/Meta-Llama-3-8B", "config.json")]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE is set"):
        read_configuration("meta-llama/Meta-Llama-3-8B")
