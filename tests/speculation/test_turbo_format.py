"""A speculator's folder: what is written is read, and what does not fit is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paceline.backends.registry import get_backend
from paceline.errors import InvalidRequestError, ModelLoadError
from paceline.models.loading import LoadedModel, load_model
from paceline.quantization.packed import PackedWeight
from paceline.quantization.rounding import quantize
from paceline.speculation.drafters.model_loading import Target
from paceline.speculation.drafters.registry import open_drafters
from paceline.speculation.drafters.turbo_format import (
    CONFIG,
    WEIGHTS,
    read_speculator,
    read_stored,
    write_speculator,
)
from paceline.speculation.drafters.turbo_loading import open_turbo_drafter
from paceline.speculation.drafters.turbo_model import lay_out
from paceline.speculation.options import SpeculationOptions
from turbo_models import random_tensors, tiny_config


@pytest.fixture
def target(tiny_checkpoint: Callable[[str], Path]) -> LoadedModel:
    return load_model(tiny_checkpoint("smollm2"), get_backend("torch"))


@pytest.fixture
def folder(target: LoadedModel, tmp_path: Path) -> Path:
    config = tiny_config(target, card={"data": "none"})
    write_speculator(tmp_path / "speculator", config, random_tensors(config))
    return tmp_path / "speculator"


def edit(folder: Path, **changes: object) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def open_beside(target: LoadedModel, folder: Path) -> object:
    return open_turbo_drafter(folder, target, get_backend("torch"), target_name="tiny", max_sequences=4, max_tokens=64)


def test_what_is_written_is_read(target: LoadedModel, folder: Path) -> None:
    config, tensors = read_speculator(folder)
    assert config.card == {"data": "none"} and config.shape_hash == config.target.shape_hash
    wanted = random_tensors(config)
    assert tensors.keys() == wanted.keys() == config.shapes().keys()
    for name, tensor in tensors.items():
        assert torch.allclose(tensor.float(), wanted[name].float(), rtol=2**-8), name
    assert torch.equal(tensors["tokens"], wanted["tokens"])
    assert torch.equal(tensors["state_scale"], wanted["state_scale"])


def test_stored_codes_are_the_weights_that_the_engine_uses(target: LoadedModel, tmp_path: Path) -> None:
    """What was rounded once is not rounded again: the codes of the file are those that are laid out."""
    config = tiny_config(target)
    tensors = random_tensors(config)
    write_speculator(tmp_path, config, tensors, "q8")
    loaded, stored = read_stored(tmp_path)
    assert loaded.stored == "q8" and loaded.format == "paceline-turbo-2"
    laid_out: list[PackedWeight] = []

    class Recorder:
        def matrix(self, parts: list[PackedWeight]) -> object:
            laid_out.extend(parts)
            return parts

        def vector(self, values: torch.Tensor) -> torch.Tensor:
            return values

    lay_out(loaded, stored, None, Recorder(), "q8")  # type: ignore[arg-type]
    names = ("from_embedding", "from_states", "qkv", "output", "gate", "up", "down")
    wanted = [quantize(tensors[name], "q8") for name in names]
    wanted.append(quantize(torch.cat([tensors["head"], tensors["survival"]]), "q8"))
    assert len(laid_out) == len(wanted)
    for got, once in zip(laid_out, wanted, strict=True):
        assert got.kind == "q8" and torch.equal(got.data, once.data) and torch.equal(got.scale, once.scale)
    _, floats = read_speculator(tmp_path)
    assert torch.equal(floats["gate"], wanted[4].dequantize())
    assert torch.equal(floats["markov_next"], tensors["markov_next"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("gate.scale"), "'gate.scale' should have shape.*it is not there"),
        (lambda tensors: tensors.update(gate=tensors["gate"].float()), "'gate' should be torch.uint8"),
    ],
)
def test_damaged_codes_are_refused(target: LoadedModel, tmp_path: Path, change: Callable, message: str) -> None:
    config = tiny_config(target)
    write_speculator(tmp_path, config, random_tensors(config), "q8")
    tensors = load_file(tmp_path / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(ModelLoadError, match=message):
        read_speculator(tmp_path)


def test_it_is_opened_by_its_option(target: LoadedModel, folder: Path) -> None:
    about = Target(None, target.spec.vocab_size, 64, 640, 10**6, 4, target)
    options = SpeculationOptions(speculator=str(folder))
    made = dict(open_drafters(options, about, get_backend("torch")))
    assert list(made) == ["grammar", "suffix", "turbo"]
    drafter, told = made["turbo"]
    assert drafter.layers == (0, 2) and "4 tokens a pass of 48" in told
    without = dict(open_drafters(SpeculationOptions(), about, get_backend("torch")))
    assert without["turbo"][0].layers == () and "adapters bring" in without["turbo"][1]
    assert "turbo" not in dict(open_drafters(SpeculationOptions(speculate=("suffix",)), about, get_backend("torch")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speculate": ("model",)}, "'model' needs a draft_model"),
        ({"speculate": ("suffix",), "speculator": "there"}, "not among those that speculate names"),
        ({"speculator": " "}, "speculator must be the folder"),
    ],
)
def test_options_that_contradict_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        SpeculationOptions(**options).validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 161}, "vocab_size 161 instead of 160"),
        ({"hidden_size": 64}, "hidden_size 64 instead of 96"),
        ({"family": "other"}, "family other instead of llama"),
    ],
)
def test_another_target_is_refused(target: LoadedModel, folder: Path, change: dict, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        open_beside(_Changed(target, **change), folder)


class _Changed:
    def __init__(self, target: LoadedModel, **change: object) -> None:
        self.spec = replace(target.spec, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": 1}, "positions must be between 2 and 16, got 1"),
        ({"vocab_size": 0}, "vocab_size must be 1 to 160"),
        ({"layers": [2, 0]}, "ascending"),
        ({"layers": [0, 3]}, "layers of the target, 0 to 2"),
        ({"format": "eagle3"}, "format must be 'paceline-turbo-1'"),
        ({"shape_hash": "abc"}, "shape_hash must be that of the target's shape"),
        ({"head_dim": 31}, "head_dim must be even"),
        ({"window": "wide"}, "does not describe a speculator"),
        ({"markov_rank": 5}, r"'markov_previous' should have shape \[48, 5\].*it has \[48, 4\]"),
    ],
)
def test_a_config_that_cannot_be_is_refused(folder: Path, change: dict, message: str) -> None:
    edit(folder, **change)
    with pytest.raises(ModelLoadError, match=message):
        read_speculator(folder)


def test_tokens_must_be_ids_of_the_target(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["tokens"][-1] = 160
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ModelLoadError, match="ascending ids below the target's 160"):
        read_speculator(folder)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="not the folder of a speculator"):
        read_speculator(tmp_path / "nothing")
    (folder / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ModelLoadError, match="cannot read"):
        read_speculator(folder)
