"""``train``: from rows to a folder that the engine serves, interrupted anywhere, and never half a folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from toy_task import save_task_model, task_rows, toy_settings, write_rows

from paceline import LLM, SamplingParams
from paceline.errors import InvalidRequestError, PacelineError
from paceline.speculation.options import SpeculationOptions
from paceline.training import lora, stages
from paceline.training.lora_model import load_base
from paceline.training.report import Reporter
from paceline.training.settings import TrainSettings
from paceline.training.stages import train

pytest.importorskip("peft")
ROWS = 24
ENGINE = {"backend": "torch", "threads": 1, "kv_blocks": 64}
STAGES = ("adapter", "answers", "states", "speculator", "measuring before", "measuring after")


class Interrupt(Reporter):
    """Ctrl-C in the midst of a stage."""

    def __init__(self, stage: str, at: int) -> None:
        self.wanted, self.at, self.now = stage, at, ""

    def stage(self, name: str, resumed: bool = False) -> None:
        self.now = name

    def progress(self, done: int, total: int, note: str = "") -> None:
        if self.now == self.wanted and done >= self.at:
            raise KeyboardInterrupt


class Heard(Reporter):
    """What was told."""

    def __init__(self) -> None:
        self.resumed: dict[str, bool] = {}
        self.first: dict[str, int] = {}
        self.said: list[str] = []

    def stage(self, name: str, resumed: bool = False) -> None:
        self.resumed[name] = resumed

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.first.setdefault(list(self.resumed)[-1], done)

    def say(self, text: str) -> None:
        self.said.append(text)


class Trained:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = save_task_model(root / "model")
        self.data = write_rows(root / "rows.jsonl", task_rows(ROWS))
        self.settings = self.wanting("turbo-lora", root / "trained")
        self.report = train(self.settings)

    def wanting(self, kind: str, output: Path, **changes: Any) -> TrainSettings:
        return toy_settings(kind, self.model, self.data, output, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "adapter_model.safetensors") | load_file(output / "speculator" / "model.safetensors")


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_folder_has_adapter_speculator_figures_and_card(trained: Trained) -> None:
    output = trained.settings.output
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "speculator", "training.json"
    ]  # fmt: skip
    assert not list(output.parent.glob("trained.*")), "nothing of the work is left"
    report = json.loads((output / "training.json").read_text())
    assert report == trained.report and report["rows"]["train"] + report["rows"]["held_out"] == ROWS
    before, after = report["measured"]["before"], report["measured"]["after"]
    assert after["loss"] < 0.5 * before["loss"], "it learned"
    assert report["measured"]["drafts"]["acceptance_length"] >= 1.0
    card = (output / "README.md").read_text()
    assert "paceline serve" in card and report["command"] in card and "| exact match |" in card


def test_what_was_trained_is_what_is_served(trained: Trained) -> None:
    """The loss that the trainer saw, float32, is that of the engine with the folder that was written, whose keys and
    values may be bfloat16."""
    assert trained.report["measured"]["before"]["loss"] == pytest.approx(
        trained.report["adapter"]["history"][0]["held_out_loss"], rel=5e-3
    )
    assert trained.report["measured"]["after"]["loss"] == pytest.approx(
        trained.report["adapter"]["held_out_loss"], rel=5e-3
    )


def test_the_engine_has_the_logits_of_the_peft_model(trained: Trained) -> None:
    from peft import PeftModel

    base = load_base(trained.model, torch.device("cpu"))
    model = PeftModel.from_pretrained(base.model, str(trained.settings.output)).eval()
    ids = [5, 17, 40, 99, 23, 61, 8, 77, 31]
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    with LLM(str(trained.model), adapters={"own": trained.settings.output}, kv_cache_dtype="f32", **ENGINE) as llm:
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=4)
        (scored,) = llm.generate([ids], params, adapter="own")
    for place, entry in enumerate(scored.prompt_logprobs[1:]):
        for token, value in zip(entry.top_ids, entry.top_logprobs, strict=True):
            assert value == pytest.approx(float(expected[place, token]), abs=1e-3)


def test_the_folder_is_served_with_its_speculator_and_the_text_is_the_same(trained: Trained) -> None:
    output = trained.settings.output
    prompts = [[5, 17, 40, 99], [23, 61, 8, 77, 31]]
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    texts = []
    for speculation in (
        SpeculationOptions(speculate="off"),
        SpeculationOptions(speculate=("turbo",), speculator=str(output / "speculator")),
    ):
        with LLM(str(trained.model), adapters={"own": output}, speculation=speculation, **ENGINE) as llm:
            texts.append([answer.outputs[0].token_ids for answer in llm.generate(prompts, params, adapter="own")])
    assert texts[0] == texts[1]


def test_a_training_interrupted_in_every_stage_ends_with_the_same_weights(trained: Trained, tmp_path: Path) -> None:
    settings = replace(trained.settings, output=tmp_path / "out")
    steps = trained.report["adapter"]["steps"]
    for stage, at in zip(STAGES, (steps - 1, 1, 2, 5, 1, 1), strict=True):
        with pytest.raises(KeyboardInterrupt):
            train(settings, Interrupt(stage, at))
        assert not settings.output.exists() and (tmp_path / "out.partial").is_dir()
    heard = Heard()
    report = train(settings, heard)
    assert [name for name in STAGES if heard.resumed[name]] == list(STAGES[:5]), "these were complete"
    assert_same(weights(settings.output), weights(trained.settings.output))
    assert report["adapter"] == trained.report["adapter"] and report["speculator"] == trained.report["speculator"]


def test_the_adapter_goes_on_from_its_checkpoint(trained: Trained, tmp_path: Path) -> None:
    settings = trained.wanting("lora", tmp_path / "out")
    steps = trained.report["adapter"]["steps"]
    with pytest.raises(KeyboardInterrupt):
        train(settings, Interrupt("adapter", steps - 1))
    heard = Heard()
    train(settings, heard)
    assert 1 < heard.first["adapter"] < steps
    whole = load_file(trained.settings.output / "adapter_model.safetensors")
    assert_same(load_file(tmp_path / "out" / "adapter_model.safetensors"), whole)
    assert not (tmp_path / "out" / "speculator").exists()


def test_work_of_another_training_is_refused_with_what_differs(trained: Trained, tmp_path: Path) -> None:
    settings = trained.wanting("lora", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        train(settings, Interrupt("adapter", 1))
    with pytest.raises(InvalidRequestError, match=r"It differs in seed \(0, now 1\)\. Repeat its command"):
        train(replace(settings, seed=1))
    other = write_rows(tmp_path / "rows.jsonl", task_rows(ROWS + 1))
    changed = replace(settings, data=other, lora=replace(settings.lora, rank=2))
    with pytest.raises(InvalidRequestError, match=r"the content of data, rank \(4, now 2\)"):
        train(changed)
    with pytest.raises(KeyboardInterrupt):
        train(replace(changed, overwrite=True), Interrupt("adapter", 1))
    with pytest.raises(InvalidRequestError, match=r"rank \(2, now 4\)"):
        train(settings)


def test_an_output_that_is_taken_is_refused_and_kept_until_the_new_one_is_there(
    trained: Trained, tmp_path: Path
) -> None:
    settings = trained.wanting("lora", tmp_path / "out")
    settings.output.mkdir()
    (settings.output / "mine.txt").write_text("mine")
    with pytest.raises(InvalidRequestError, match=r"is not empty.*--overwrite"):
        train(settings)
    with pytest.raises(KeyboardInterrupt):
        train(replace(settings, overwrite=True), Interrupt("measuring before", 1))
    assert (settings.output / "mine.txt").read_text() == "mine"
    train(replace(settings, overwrite=True))
    assert not (settings.output / "mine.txt").exists() and (settings.output / "adapter_config.json").is_file()
    heard = Heard()
    train(settings, heard)
    assert not heard.resumed and "nothing to do" in heard.said[0]


def test_a_speculator_for_an_adapter_that_is_there_and_for_the_base(trained: Trained, tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", task_rows(14, answers=False))
    settings = replace(trained.wanting("turbo", tmp_path / "own", adapter=trained.settings.output), data=prompts)
    report = train(settings)
    assert report["measured"].keys() == {"drafts"}
    assert_same(
        load_file(tmp_path / "own" / "adapter_model.safetensors"),
        load_file(trained.settings.output / "adapter_model.safetensors"),
    )
    train(replace(settings, adapter=None, output=tmp_path / "base"))
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["README.md", "speculator", "training.json"]


def test_a_speculator_that_starts_from_another_one_is_close_to_it(trained: Trained, tmp_path: Path) -> None:
    parent = trained.settings.output / "speculator"
    settings = trained.wanting("turbo", tmp_path / "child", adapter=trained.settings.output)
    short = replace(settings.speculator, steps=1, start=str(parent))
    train(replace(settings, speculator=short))
    train(replace(settings, speculator=replace(short, start="none"), seed=1, output=tmp_path / "new"))
    known, child, new = (
        load_file(folder / "model.safetensors")
        for folder in (parent, tmp_path / "child" / "speculator", tmp_path / "new" / "speculator")
    )
    for name in ("from_states", "qkv", "gate"):
        assert (child[name] - known[name]).abs().max() < 0.1 < (new[name] - known[name]).abs().max()
    assert json.loads((tmp_path / "child" / "training.json").read_text())["speculator"]["start"] == "speculator"


def test_a_speculator_of_another_model_is_no_start(trained: Trained, tmp_path: Path) -> None:
    settings = trained.wanting("turbo", tmp_path / "child")
    for start, reason in ((tmp_path / "nowhere", "cannot start from"), (trained.settings.output, "cannot start from")):
        with pytest.raises(InvalidRequestError, match=reason):
            train(replace(settings, speculator=replace(settings.speculator, start=str(start))))
    assert not list(tmp_path.iterdir()), "nothing was begun"


FAILURES: list[tuple[Exception, str]] = [
    (OSError(28, "No space left on device"), "the disk is full.*goes on where it was"),
    (
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
        "not enough memory.*batch",
    ),
    (MemoryError(), "not enough memory"),
]


def test_a_full_disk_or_memory_is_said_and_the_work_kept(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = trained.wanting("lora", tmp_path / "out")
    for failure, message in FAILURES:

        def fail(*_: Any, failure: Exception = failure) -> None:
            raise failure

        with monkeypatch.context() as broken:
            broken.setattr(lora.torch, "save", fail)
            with pytest.raises(PacelineError, match=message):
                train(settings)
        assert not settings.output.exists() and (tmp_path / "out.partial").is_dir()
    train(settings)
    assert (settings.output / "adapter_model.safetensors").is_file()


def test_a_folder_in_use_and_one_that_cannot_be_made_are_refused(trained: Trained, tmp_path: Path) -> None:
    settings = trained.wanting("lora", tmp_path / "out")
    with FileLock(tmp_path / "out.partial.lock"), pytest.raises(InvalidRequestError, match="another training works in"):
        train(settings)
    with pytest.raises(InvalidRequestError, match="cannot write beside"):
        train(replace(settings, output=trained.data / "out"))


def test_a_missing_peft_is_said(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.training.lora_model.find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(PacelineError, match=r"needs peft.*pip install 'paceline\[train\]'"):
        train(trained.wanting("lora", tmp_path / "out"))
    assert not list(tmp_path.iterdir()) and stages.SPECULATOR == "speculator"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": 0.0}, "held_out must be above 0"),
        ({"max_length": 100_000}, "max_length 100000 is above the model's context of 128 tokens"),
        ({"adapter": Path("x")}, "only turbo takes one"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda, got 'tpu'"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    trained: Trained, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        train(trained.wanting("lora", tmp_path / "out", **change))
    assert not list(tmp_path.iterdir())
