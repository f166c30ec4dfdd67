"""From options to drafters: who is there, what is told at start, and what is refused before anything is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paceline.engine import factory
from paceline.engine.messages import EngineReady
from paceline.engine.options import EngineOptions
from paceline.errors import InvalidRequestError, ModelLoadError
from paceline.speculation.controller import Controller
from paceline.speculation.drafters.model import ModelDrafter
from paceline.speculation.drafters.registry import DRAFTERS
from paceline.speculation.options import DRAFTER_NAMES, SpeculationOptions
from tiny_tokenizer import save_tiny_tokenizer

SMALL = {"threads": 1, "kv_blocks": 16, "max_rows": 16, "max_running": 2, "max_queue": 3, "backend": "torch"}


@pytest.fixture
def folder(tiny_checkpoint) -> Path:
    path = tiny_checkpoint("smollm2")
    save_tiny_tokenizer(path)
    return path


@pytest.fixture
def draft(tiny_checkpoint, tmp_path) -> Path:
    """A draft model with the target's tokenizer."""
    copy = tmp_path / "draft"
    shutil.copytree(tiny_checkpoint("llama"), copy)
    save_tiny_tokenizer(copy)
    return copy


def build(folder: Path, **speculation: object):
    options = EngineOptions(model=str(folder), speculation=SpeculationOptions(**speculation), **SMALL)
    return factory.build_engine(options)


def told(ready: EngineReady, name: str) -> str:
    (choice,) = [choice for choice in ready.choices if choice.name == name]
    return f"{choice.value}: {choice.reason}"


def test_every_drafter_that_can_be_named_can_be_opened() -> None:
    assert set(DRAFTERS) == set(DRAFTER_NAMES)


def test_by_default_there_are_the_drafters_that_cost_nothing_and_measured_costs(folder) -> None:
    engine, ready = build(folder)
    assert ready.drafters == ["grammar", "suffix", "turbo"] == list(engine.drafter_names)
    assert engine.drafting is not None
    controller = engine.drafting.controller
    assert type(controller) is Controller and controller.costs is not None and not controller.coupled
    assert controller.costs.seconds(1) > 0
    assert "measured" in told(ready, "draft length")
    assert told(ready, "drafter suffix").startswith("on: ")


def test_off_means_no_drafters_and_no_rows_for_them(folder) -> None:
    engine, ready = build(folder, speculate="off")
    assert ready.drafters == [] and engine.drafting is None
    assert engine.scheduler.max_draft_rows == 0
    assert told(ready, "speculation") == "off: as configured"
    assert not any(choice.name.startswith(("drafter", "draft length")) for choice in ready.choices)


@pytest.mark.parametrize("names", [("suffix",), ("ngram",), ("grammar", "ngram")], ids=",".join)
def test_named_drafters_are_all_there_are(names, folder) -> None:
    _, ready = build(folder, speculate=names)
    assert ready.drafters == list(names)
    assert [choice.name for choice in ready.choices if choice.name.startswith("drafter ")] == [
        f"drafter {name}" for name in names
    ]


@pytest.mark.parametrize("speculate", ["auto", ("model",)], ids=str)
def test_a_draft_model_that_was_named_drafts(speculate, folder, draft) -> None:
    engine, ready = build(folder, speculate=speculate, draft_model=str(draft))
    assert ready.drafters == (["grammar", "suffix", "model", "turbo"] if speculate == "auto" else ["model"])
    assert "draft (" in told(ready, "drafter model") and "KV cache of" in told(ready, "drafter model")
    assert engine.drafting is not None
    drafter = engine.drafting.controller.drafter(ModelDrafter)
    assert drafter is not None and drafter.max_tokens <= engine.context_length


def test_coupled_sampling_reaches_controller_and_sampler(folder) -> None:
    engine, _ = build(folder, sampling="coupled")
    assert engine.drafting is not None and engine.drafting.controller.coupled and engine.runner.sampler.coupled


def test_the_most_draft_tokens_of_a_step_are_the_options(folder) -> None:
    engine, _ = build(folder, max_draft=3)
    assert engine.drafting is not None and engine.drafting.max_draft == 3


def test_a_draft_model_is_not_opened_where_speculation_is_off(folder, tmp_path) -> None:
    _, ready = build(folder, speculate="off", draft_model=str(tmp_path / "nowhere"))
    assert ready.drafters == []


def test_a_draft_model_that_is_not_there_stops_the_start(folder, tmp_path) -> None:
    for speculate in ("auto", ("model",)):
        with pytest.raises(ModelLoadError, match="nowhere"):
            build(folder, speculate=speculate, draft_model=str(tmp_path / "nowhere"))
    with pytest.raises(InvalidRequestError, match="the drafter 'model' needs a draft_model"):
        build(folder, speculate=("model", "suffix"))


def test_a_draft_model_of_another_vocabulary_stops_the_start(folder, draft) -> None:
    file = draft / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] = {text + "!" * (token == 77): token for text, token in content["model"]["vocab"].items()}
    file.write_text(json.dumps(content))
    with pytest.raises(ModelLoadError, match=r"draft has another tokenizer than the target: token 77 is .*choose a"):
        build(folder, draft_model=str(draft))


def test_wrong_settings_stop_the_start_before_a_model_is_read(tmp_path) -> None:
    """The factory checks them too: not everybody comes by the command line."""
    with pytest.raises(InvalidRequestError, match="speculate must be 'auto', 'off' or names of drafters"):
        build(tmp_path / "nowhere", speculate="sufix")
