"""From options to an engine: model, backend, ends of sequence, and the reasons."""

from __future__ import annotations

import json

import pytest
import torch

from paceline.engine import factory
from paceline.engine.options import EngineOptions
from paceline.errors import InvalidRequestError, ModelLoadError, PacelineError
from tiny_tokenizer import save_tiny_tokenizer

SMALL = {"threads": 1, "kv_blocks": 16, "max_rows": 16, "max_running": 2, "max_queue": 3}


@pytest.fixture
def folder(tiny_checkpoint):
    path = tiny_checkpoint("smollm2")
    save_tiny_tokenizer(path)
    return path


def test_what_was_built_is_told_with_reasons(folder) -> None:
    engine, ready = factory.build_engine(EngineOptions(model=str(folder), backend="torch", context_length=64, **SMALL))
    assert (ready.backend, ready.path) == ("torch", str(folder))
    assert (ready.context_length, ready.vocab_size, ready.max_running, ready.max_queue) == (64, 160, 2, 3)
    assert engine.eos_ids == {2}
    choices = {choice.name: choice for choice in ready.choices}
    assert choices["backend"].reason == choices["threads"].reason == "as configured"


def test_native_backend_is_chosen_where_it_runs_and_torch_elsewhere(monkeypatch) -> None:
    asked = []

    def no_core(name, **options):
        asked.append(name)
        if name == "cpu":
            raise PacelineError("there is no C++ core here")
        return "the torch backend"

    monkeypatch.setattr(factory, "get_backend", no_core)
    backend, reason = factory.open_backend("auto", 2)
    assert (backend, asked) == ("the torch backend", ["cpu", "torch"])
    assert "there is no C++ core here" in reason
    with pytest.raises(PacelineError, match="no C"):
        factory.open_backend("cpu", 2)


def test_ends_of_sequence_come_from_both_configurations(tmp_path) -> None:
    assert factory.eos_ids(tmp_path, {}) == frozenset()
    assert factory.eos_ids(tmp_path, {"eos_token_id": 3}) == {3}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 5]}))
    assert factory.eos_ids(tmp_path, {"eos_token_id": 4}) == {3, 4, 5}


def test_torch_threads_are_set_in_an_own_process_only(folder, monkeypatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    options = EngineOptions(model=str(folder), backend="torch", **SMALL)
    factory.build_engine(options)
    assert chosen == []
    factory.build_in_own_process(options)
    assert chosen == [1]


def test_bad_models_and_settings_are_refused(folder, tmp_path) -> None:
    with pytest.raises(ModelLoadError):
        factory.build_engine(EngineOptions(model=str(tmp_path / "nothing")))
    with pytest.raises(InvalidRequestError, match="max_running"):
        factory.build_engine(EngineOptions(model=str(folder), backend="torch", max_running=0))
