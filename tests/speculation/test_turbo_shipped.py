"""The speculator that the package brings: found for its own model, for no other, and off when the options say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from paceline.backends.registry import get_backend
from paceline.errors import InvalidRequestError
from paceline.models.loading import LoadedModel, load_model
from paceline.speculation.drafters import registry, turbo_shipped
from paceline.speculation.drafters.model_loading import Target
from paceline.speculation.drafters.registry import open_drafters
from paceline.speculation.drafters.turbo_format import write_speculator
from paceline.speculation.drafters.turbo_shipped import FOLDER, last_norm, shipped_speculator
from paceline.speculation.options import SpeculationOptions
from turbo_models import random_tensors, tiny_config


@pytest.fixture
def path(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("smollm2")


@pytest.fixture
def target(path: Path) -> LoadedModel:
    return load_model(path, get_backend("torch"))


def ship(folder: Path, target: LoadedModel, path: Path, factor: float = 1.0) -> Path:
    gains = last_norm(target.spec, path)
    assert gains is not None
    config = msgspec.structs.replace(tiny_config(target), target_norm=tuple((gains[:16] * factor).tolist()))
    write_speculator(folder / "tiny", config, random_tensors(config), "q8")
    return folder / "tiny"


def test_it_is_found_for_the_model_that_it_was_trained_for(target: LoadedModel, path: Path, tmp_path: Path) -> None:
    folder = ship(tmp_path, target, path)
    (tmp_path / "__pycache__").mkdir()
    assert shipped_speculator(target.spec, path, tmp_path) == folder


def test_a_norm_that_was_trained_further_is_another_model(target: LoadedModel, path: Path, tmp_path: Path) -> None:
    ship(tmp_path, target, path, factor=1.05)
    assert shipped_speculator(target.spec, path, tmp_path) is None
    ship(tmp_path, target, path, factor=1.002)  # as rounding to 16 bits may leave it
    assert shipped_speculator(target.spec, path, tmp_path) is not None


def test_nothing_is_found_where_nothing_can_be_told(target: LoadedModel, path: Path, tmp_path: Path) -> None:
    folder = ship(tmp_path, target, path)
    assert shipped_speculator(target.spec, None, tmp_path) is None
    assert shipped_speculator(target.spec, tmp_path / "no such file", tmp_path) is None
    write_speculator(folder, tiny_config(target), random_tensors(tiny_config(target)))
    assert shipped_speculator(target.spec, path, tmp_path) is None, "it does not say what its target is like"
    assert shipped_speculator(target.spec, path, tmp_path / "empty") is None


def test_what_the_package_brings_is_not_for_random_models(target: LoadedModel, path: Path) -> None:
    assert shipped_speculator(target.spec, path, FOLDER) is None


@pytest.fixture
def shipped(target: LoadedModel, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    folder = ship(tmp_path, target, path)
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    monkeypatch.setattr(
        registry, "shipped_speculator", lambda spec, at: turbo_shipped.shipped_speculator(spec, at, tmp_path)
    )
    assert folder.is_dir()
    return Target(path, target.spec.vocab_size, 64, 640, 10**6, 4, target)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, ["grammar", "suffix", "turbo"]),
        ({"speculate": ("turbo",)}, ["turbo"]),
        ({"speculate": ("suffix",)}, ["suffix"]),
        ({"speculator": "none"}, ["grammar", "suffix", "turbo"]),  # for those of adapters
        ({"speculate": ("suffix",), "speculator": "none"}, ["suffix"]),
    ],
)
def test_it_is_used_unless_the_options_say_otherwise(shipped: Target, options: dict, wanted: list[str]) -> None:
    wishes = SpeculationOptions(**options)
    wishes.validate()
    made = dict(open_drafters(wishes, shipped, get_backend("torch")))
    assert list(made) == wanted
    if "turbo" in made:
        none = options.get("speculator") == "none"
        told = "speculators that adapters bring with them" if none else "the package's speculator tiny"
        assert made["turbo"][1].startswith(told)


def test_a_folder_that_was_named_comes_first(shipped: Target, target: LoadedModel, tmp_path: Path) -> None:
    write_speculator(tmp_path / "own" / "mine", tiny_config(target), random_tensors(tiny_config(target)))
    options = SpeculationOptions(speculator=str(tmp_path / "own" / "mine"))
    made = dict(open_drafters(options, shipped, get_backend("torch")))
    assert made["turbo"][1].startswith("speculator mine")


def test_turbo_by_name_needs_a_speculator_from_somewhere(target: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    about = Target(None, target.spec.vocab_size, 64, 640, 10**6, 4, target)
    options, backend = SpeculationOptions(speculate=("turbo",)), get_backend("torch")
    assert [name for name, _ in open_drafters(options, about, backend)] == ["turbo"], "adapters may bring some"
    monkeypatch.setattr(type(backend), "max_adapters", 0)
    with pytest.raises(InvalidRequestError, match="the package brings none for this model"):
        list(open_drafters(options, about, backend))
