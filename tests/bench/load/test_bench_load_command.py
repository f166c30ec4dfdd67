"""``paceline bench serve`` and ``paceline bench compare`` from the command line, on a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from lora_models import random_tensors, write_adapter
from paceline.bench.peers.targets import free_port
from paceline.cli.bench import app
from paceline.cli.bench.load_options import LoadOptions
from paceline.cli.bench.options import command_line

SMALL = ["--repeats", "1", "--requests", "5", "--threads", "1", "--late-limit", "60000", "--warm-up", "1"]


BENCH = [sys.executable, "-m", "paceline", "bench"]


def environment() -> dict[str, str]:
    """Without data sets and peers that this machine may have."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PACELINE_BENCH_")}


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [*BENCH, *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    return write_adapter(tmp_path_factory.mktemp("lora") / "tiny", random_tensors(model, 4, seed=1), r=4)


def test_serve_measures_a_tiny_model_with_and_without_an_adapter(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    report, records = tmp_path / "report.json", tmp_path / "records.jsonl"
    options = ["--scenario", "ner", "--rate", "20", "--concurrency", "2", "--adapter", f"mine={adapter}"]
    options += ["--dollars-per-hour", "1", "--json", str(report), "--records", str(records), *SMALL]
    done = bench("serve", str(tiny_model), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "### ner: named-entity recognition" in done.stdout and "### ner + mine:" in done.stdout
    values = json.loads(report.read_text())
    points = values["points"]
    assert [(point["workload"], point["load"]["kind"]) for point in points] == [
        ("ner", "rate"), ("ner", "concurrency"), ("ner + mine", "rate"), ("ner + mine", "concurrency"),
    ]  # fmt: skip
    for point in points:
        assert point["metrics"]["completed"] == 5 and point["metrics"]["errors"] == {}
        assert 90 <= point["metrics"]["prompt_tokens"] <= 150  # letters are tokens here
        assert point["metrics"]["ttft"]["p50"] <= point["metrics"]["e2e"]["p50"]
        assert point["server"]["draft_tokens"] is not None
        assert point["dollars_per_million_output_tokens"] > 0
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert len(lines) == 20
    mixed = [line["model"] for line in lines if (line["workload"], line["load"]) == ("ner + mine", "20 req/s")]
    assert sorted(mixed) == ["mine", "mine", tiny_model.name, tiny_model.name, tiny_model.name]
    assert '"arrivals": [' not in report.read_text()  # times of single tokens only where they are asked for
    assert values["targets"][0]["api"] == "completions"  # it has no chat template, which is said:
    assert any("refuses a chat" in warning for warning in values["warnings"])


def test_compare_measures_paceline_with_and_without_speculation(tiny_model: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--model", str(tiny_model), "--scenario", "qa", "--rate", "20", "--json", str(report), *SMALL]
    done = bench("compare", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads(report.read_text())
    assert [point["target"] for point in values["points"]] == ["paceline", "paceline:off"]
    assert all(point["metrics"]["completed"] == 5 for point in values["points"])
    assert values["fastest"]["e2e_p95"].keys() == {"paceline", "paceline:off"}
    assert sum(won for won, _ in values["fastest"]["e2e_p95"].values()) == 1
    tables = {table["title"]: table for section in values["sections"] for table in section["tables"]}
    ratios = tables["Against paceline"]
    _, off = (dict(zip(ratios["columns"], row, strict=True)) for row in ratios["rows"])
    assert (off["target"], off["same texts"]) == ("paceline:off", 1.0)  # drafts change no letter of the answers


def test_a_trace_is_replayed(tiny_model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:0{second}.0000000,{100 + second},{3 + second}" for second in range(6)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, "2023-11-16 18:15:08,9000,9000"]))
    report = tmp_path / "report.json"
    options = ["--trace", str(trace), "--speedup", "20", "--json", str(report), "--repeats", "1", "--threads", "1"]
    done = bench("serve", str(tiny_model), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (point,) = json.loads(report.read_text())["points"]
    assert point["metrics"]["completed"] == 7
    assert "1 of 7 requests were clipped to a context of 512 tokens" in done.stdout
    assert point["metrics"]["output_tokens"] == pytest.approx((3 + 4 + 5 + 6 + 7 + 8 + 256) / 7)


def test_ctrl_c_shows_what_was_measured_and_leaves_no_server(tiny_model: Path) -> None:
    options = ["--scenario", "ner", "--rate", "20,21,22", "--requests", "40", "--repeats", "1", "--threads", "1"]
    process = subprocess.Popen(
        [*BENCH, "serve", str(tiny_model), *options], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("ner, 20 req/s"):
            break
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "STOPPED before its end" in out and "| 20 req/s |" in out and "| 22 req/s |" not in out


def test_a_url_that_is_nobody_is_one_line_of_error() -> None:
    done = bench("serve", "--url", f"http://127.0.0.1:{free_port()}", "--quick")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("Error: cannot reach http://127.0.0.1:")
    assert "Is the server running there?" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve", "--rate", "0"], "--rate '0'"),
        (["serve", "--concurrency", "1.5"], "whole number"),
        (["serve", "--goodput", "fast"], "no latency target"),
        (["serve", "--speedup", "2"], "give --trace FILE"),
        (["serve", "--trace", "/nowhere.csv"], "/nowhere.csv is missing"),
        (["serve", "--adapter", "a"], "--adapter a=FOLDER"),
        (["serve", "--serve-option", "port=1"], "port cannot be set here"),
        (["serve", "--url", "http://[x"], "is not"),
        (["compare", "vllm"], "--vllm-python"),
        (["compare", "paceline", "paceline"], "two targets paceline"),
        (["serve", "--scenario", "poetry"], "preference, ner, qa"),
        (["serve", "MODEL", "--url", "http://h"], "not both"),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr("paceline.bench.load.sweep.Sweep.run", refuse)
    for name in [name for name in os.environ if name.startswith("PACELINE_BENCH_")]:
        monkeypatch.delenv(name)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    assert message in result.output.replace("\n│ ", " ").replace("  ", " ")


@pytest.mark.parametrize("command", ["serve", "compare"])
def test_every_option_about_load_is_explained_in_both_commands(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    names = {name.replace("_file", "").replace("_", "-") for name in LoadOptions.__dataclass_fields__}
    assert {name for name in names if f"--{name}" not in result.output} == set()


def test_the_command_in_a_report_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "bench", "serve", "--api-key", "secret", "--api-key=secret", "--url", "u v"])
    assert command_line() == "paceline bench serve --api-key ... --api-key=... --url 'u v'"
