"""What a loaded model's weights weigh, held against what the loader counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.backends.registry import get_backend
from paceline.bench.roofline.inventory import Use, arithmetic_of, inventory, load_weighed, work_of
from paceline.bench.roofline.model_work import HEAD
from paceline.errors import PacelineError
from paceline.models.loading import LoadedModel


def opened(folder: Path, backend: str) -> tuple[LoadedModel, list[Use]]:
    try:
        model, weighing = load_weighed(folder, get_backend(backend))
    except PacelineError as error:
        pytest.skip(str(error))
    return model, inventory(model, weighing)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("variant", ["llama", "smollm2", "mixtral", "qwen3_moe"])
def test_products_weigh_what_the_model_does(variant: str, backend: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    model, uses = opened(tiny_checkpoint(variant), backend)
    spec = model.spec
    embedding = 0 if spec.tied_head else 4 * spec.vocab_size * spec.hidden_size
    routers = sum(4 * layer.moe.num_experts * spec.hidden_size for layer in spec.layers if layer.moe)
    weights = [use.weight for use in uses]
    nbytes = sum(weight.nbytes * weight.count * weight.experts for weight in weights)
    assert nbytes == model.weights_bytes - embedding - routers
    assert sum(weight.parameters for weight in weights) * 4 == nbytes
    assert uses[-1].weight.part == HEAD
    assert {weight.arithmetic for weight in weights} == {"f32"}


def test_equal_products_of_all_layers_are_one_use(tiny_checkpoint: Callable[[str], Path]) -> None:
    model, uses = opened(tiny_checkpoint("llama"), "torch")
    parts = [use.weight.part for use in uses]
    assert parts == ["q, k, v", "attention output", "gate and up", "down", HEAD]
    assert [use.weight.count for use in uses] == [model.spec.num_layers] * 4 + [1]
    assert [use.weight.selected for use in uses] == [0, 1, 1, 1, 1]
    assert [len(use.matrices[0]) for use in uses] == [1, 1, 2, 1, 1]
    assert uses[2].name == "gate and up 192 x 64 f32 (32 bits)"


def test_a_mixture_is_one_weight_of_all_its_experts(tiny_checkpoint: Callable[[str], Path]) -> None:
    model, uses = opened(tiny_checkpoint("mixtral"), "torch")
    experts = next(use for use in uses if use.weight.part == "experts")
    assert (experts.weight.experts, experts.weight.chosen, experts.weight.count) == (4, 2, model.spec.num_layers)
    assert experts.weight.outputs * experts.weight.inputs == 3 * 64 * 96
    assert len(experts.layers) == model.spec.num_layers
    assert experts.name.endswith(", 2 of 4")


def test_windows_of_the_layers_are_kept(tiny_checkpoint: Callable[[str], Path]) -> None:
    model, uses = opened(tiny_checkpoint("gemma3_text"), "torch")
    work = work_of(uses, model.spec, get_backend("torch"))
    assert list(work.attention.windows) == [12, 12, 12, 0]
    assert work.attention.key_bytes == 2 * model.spec.num_kv_heads * model.spec.head_dim * 2


@pytest.mark.parametrize(
    ("kinds", "bf16", "arithmetic"),
    [
        (["q4", "q8"], True, "int8"),
        (["bf16"], True, "bf16"),
        (["bf16"], False, "f32"),
        (["bf16", "f32"], True, "f32"),
        (["q4", "f32"], True, "f32"),
        (["f16"], True, "f32"),
    ],
)
def test_the_kind_of_a_weight_decides_its_arithmetic(kinds: list[str], bf16: bool, arithmetic: str) -> None:
    assert arithmetic_of(kinds, bf16) == arithmetic
