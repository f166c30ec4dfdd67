"""Checkpoints become weights in the backend, one tensor at a time, or an error that names what is wrong."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from paceline.backends.registry import get_backend
from paceline.errors import ModelLoadError
from paceline.models.checkpoint import open_checkpoint
from paceline.models.loading import load_checkpoint, load_model
from paceline.quantization.packed import PackedWeight

TinyCheckpoint = Callable[[str], Path]


class EditedCheckpoint:
    """A checkpoint in memory, made from a folder, whose tensors and config a test may change."""

    def __init__(self, folder: Path) -> None:
        opened = open_checkpoint(folder)
        self.config: dict[str, Any] = opened.config
        self.tensors = {name: opened.get_tensor(name) for name in opened.names()}
        self.alive = self.most_alive = 0
        self.closed = False
        opened.close()

    def names(self) -> list[str]:
        return list(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def get(self, name: str) -> PackedWeight:
        data = self.tensors[name].clone()
        self.alive += 1
        self.most_alive = max(self.alive, self.most_alive)
        weakref.finalize(data, self._forget)
        return PackedWeight("f32", data)

    def get_tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def close(self) -> None:
        self.closed = True

    def _forget(self) -> None:
        self.alive -= 1


def test_a_missing_tensor_is_named_with_its_expected_shape(tiny_checkpoint: TinyCheckpoint) -> None:
    checkpoint = EditedCheckpoint(tiny_checkpoint("llama"))
    del checkpoint.tensors["model.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(ModelLoadError, match=r"'model\.layers\.1\.self_attn\.k_proj\.weight'.*\[32, 64\]"):
        load_checkpoint(checkpoint, get_backend("torch"))


@pytest.mark.parametrize("name", ["model.layers.0.mlp.down_proj.weight", "model.norm.weight"])
def test_a_misshaped_tensor_is_named_with_both_shapes(name: str, tiny_checkpoint: TinyCheckpoint) -> None:
    checkpoint = EditedCheckpoint(tiny_checkpoint("llama"))
    found = list(checkpoint.tensors[name].shape)
    checkpoint.tensors[name] = checkpoint.tensors[name][:-1]
    with pytest.raises(ModelLoadError) as caught:
        load_checkpoint(checkpoint, get_backend("torch"))
    for part in (name, str(found), str([found[0] - 1, *found[1:]])):
        assert part in str(caught.value)


def test_a_config_that_disagrees_with_the_tensors_is_refused(tiny_checkpoint: TinyCheckpoint) -> None:
    checkpoint = EditedCheckpoint(tiny_checkpoint("llama"))
    checkpoint.config["num_hidden_layers"] = 4
    with pytest.raises(ModelLoadError, match=r"no tensor 'model\.layers\.3\."):
        load_checkpoint(checkpoint, get_backend("torch"))


@pytest.mark.parametrize("variant", ["llama", "phi3", "qwen3_moe"])
def test_only_the_parts_of_one_matrix_are_in_memory_twice(variant: str, tiny_checkpoint: TinyCheckpoint) -> None:
    checkpoint = EditedCheckpoint(tiny_checkpoint(variant))
    load_checkpoint(checkpoint, get_backend("torch"))
    assert checkpoint.most_alive <= 3  # q, k and v
    assert checkpoint.alive == 0


def test_a_tied_head_is_the_embedding_table(tiny_checkpoint: TinyCheckpoint) -> None:
    tied = load_model(tiny_checkpoint("smollm2"), get_backend("torch"))
    assert tied.weights.head is tied.weights.embedding
    untied = load_model(tiny_checkpoint("llama"), get_backend("torch"))
    assert not torch.equal(untied.weights.head.weight, untied.weights.embedding.weight)


def test_a_step_streams_every_matrix_but_an_untied_embedding_and_idle_experts(tiny_checkpoint: TinyCheckpoint) -> None:
    tied = load_model(tiny_checkpoint("smollm2"), get_backend("torch"))
    assert tied.streamed_bytes == tied.weights_bytes

    untied = load_model(tiny_checkpoint("llama"), get_backend("torch"))
    assert untied.weights_bytes - untied.streamed_bytes == 160 * 64 * 4

    moe = load_model(tiny_checkpoint("mixtral"), get_backend("torch"))
    idle_experts = 3 * (4 - 2) * 3 * 64 * 96 * 4  # layers, experts not chosen, matrices
    assert moe.weights_bytes - moe.streamed_bytes == 160 * 64 * 4 + idle_experts


def test_the_checkpoint_is_closed_after_loading_and_after_an_error(
    tiny_checkpoint: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (EditedCheckpoint(tiny_checkpoint("llama")) for _ in range(2))
    bad.tensors.clear()
    monkeypatch.setattr("paceline.models.loading.open_checkpoint", lambda path: {"good": good, "bad": bad}[path])
    load_model("good", get_backend("torch"))
    with pytest.raises(ModelLoadError):
        load_model("bad", get_backend("torch"))
    assert good.closed
    assert bad.closed


@pytest.mark.parametrize("prefix", ["", "language_model.model.", "model.language_model."])
def test_the_decoder_is_found_wherever_a_wrapper_put_it(prefix: str, tiny_checkpoint: TinyCheckpoint) -> None:
    plain = EditedCheckpoint(tiny_checkpoint("gemma3_text"))
    moved = EditedCheckpoint(tiny_checkpoint("gemma3_text"))
    moved.tensors = {name.replace("model.", prefix, 1): tensor for name, tensor in plain.tensors.items()}
    one, other = (load_checkpoint(checkpoint, get_backend("torch")) for checkpoint in (plain, moved))
    assert torch.equal(one.weights.layers[3].down.weight, other.weights.layers[3].down.weight)


def test_adapters_see_every_dense_projection_in_its_own_shape(tiny_checkpoint: TinyCheckpoint) -> None:
    expected = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64)}
    expected |= {"gate": (96, 64), "up": (96, 64), "down": (64, 96)}
    for variant in ("llama", "phi3"):  # phi3 stores q, k, v and gate, up fused
        shapes = load_model(tiny_checkpoint(variant), get_backend("torch")).adapter_shapes
        assert shapes == {(layer, part): shape for layer in range(3) for part, shape in expected.items()}


def test_experts_are_no_sites_for_adapters(tiny_checkpoint: TinyCheckpoint) -> None:
    shapes = load_model(tiny_checkpoint("qwen3_moe"), get_backend("torch")).adapter_shapes
    assert {part for layer, part in shapes if layer == 0} == set("qkvo")
    assert {part for layer, part in shapes if layer == 1} == {*"qkvo", "gate", "up", "down"}  # kept dense


def test_gemma_norms_get_their_offset_at_load(tiny_checkpoint: TinyCheckpoint) -> None:
    checkpoint = EditedCheckpoint(tiny_checkpoint("gemma2"))
    model = load_checkpoint(checkpoint, get_backend("torch"))
    assert torch.equal(model.weights.final_norm, checkpoint.tensors["model.norm.weight"] + 1)
