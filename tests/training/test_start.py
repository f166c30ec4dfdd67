"""First weights of a speculator that starts from another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from paceline.backends.registry import get_backend
from paceline.errors import InvalidRequestError
from paceline.models.loading import LoadedModel, load_model
from paceline.speculation.drafters.turbo_format import write_speculator
from paceline.training.architecture import target_tables
from paceline.training.start import Parent, find_parent
from turbo_models import random_tensors, tiny_config


@pytest.fixture
def folder(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("smollm2")


@pytest.fixture
def target(folder: Path) -> LoadedModel:
    return load_model(folder, get_backend("torch"))


def test_what_fits_is_the_parents(folder: Path, target: LoadedModel) -> None:
    config = tiny_config(target)
    parent = Parent("p", config, random_tensors(config))
    own = parent.tensors["tokens"]
    others = torch.tensor([token for token in range(config.target.vocab_size) if token not in own][:3])
    tokens = torch.cat([own[5:10], others]).sort().values
    wanted = parent.config_for(len(tokens), 6, 16)
    assert (wanted.vocab_size, wanted.positions, wanted.window, wanted.layers) == (8, 6, 16, config.layers)
    tables = target_tables(folder)
    found = parent.tensors_for(wanted, tokens, torch.ones(config.state_width), tables, seed=3)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == wanted.shapes()
    for name in ("state_scale", "from_states", "qkv", "down", "final_norm", "survival"):
        assert torch.equal(found[name], parent.tensors[name]), name
    assert torch.equal(found["masks"][:3], parent.tensors["masks"])
    assert torch.equal(found["masks"][3:], parent.tensors["masks"][2:].expand(2, -1)), (
        "further positions: the last one's"
    )
    for place, token in enumerate(tokens.tolist()):
        known = (own == token).nonzero().flatten().tolist()
        head = parent.tensors["head"][known[0]] if known else tables.head[token]
        assert torch.equal(found["head"][place], head)
    found["qkv"] += 1
    assert not torch.equal(found["qkv"], parent.tensors["qkv"]), "a copy"


def test_a_parent_is_found_by_its_folder_and_refused_for_another_model(
    tmp_path: Path, folder: Path, target: LoadedModel, tiny_checkpoint: Callable[[str], Path]
) -> None:
    config = tiny_config(target)
    write_speculator(tmp_path / "one", config, random_tensors(config), "q8")
    found = find_parent(str(tmp_path / "one"), target.spec, folder)
    assert found is not None and found.name == "one" and found.config.layers == config.layers
    assert found.config.stored == "q8" and found.config_for(8, 4, 16).stored == "bf16"
    assert find_parent("none", target.spec, folder) is None
    assert find_parent("auto", target.spec, folder) is None, "the package brings none for this model"
    other = load_model(tiny_checkpoint("gemma3"), get_backend("torch"))
    with pytest.raises(InvalidRequestError, match="another shape"):
        find_parent(str(tmp_path / "one"), other.spec, folder)
    with pytest.raises(InvalidRequestError, match="cannot start from"):
        find_parent(str(tmp_path), target.spec, folder)
