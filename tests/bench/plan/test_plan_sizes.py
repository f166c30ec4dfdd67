"""Parameters, bytes and caches of well-known models, against the numbers that their publishers give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_models import (
    BF16,
    FP8,
    GEMMA_3_1B,
    LLAMA_2_7B,
    LLAMA_2_70B,
    LLAMA_3_8B,
    MIXTRAL_8X7B,
    QWEN_25_05B,
    ideal_machine,
    spec_of,
)

from paceline.backends.registry import get_backend
from paceline.bench.plan.devices import find_gpu
from paceline.bench.plan.machines import gpu_machine
from paceline.bench.plan.memory import activation_bytes, cache_attention, room, tokens_within
from paceline.bench.plan.sizes import Format, parameters, shapes, weight_bytes, work
from paceline.bench.roofline.inventory import inventory, load_weighed
from paceline.bench.roofline.model_work import Attention
from paceline.models.families import model_spec


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (LLAMA_3_8B, 8_030_261_248),
        (LLAMA_2_7B, 6_738_415_616),
        (LLAMA_2_70B, 68_976_648_192),
        (MIXTRAL_8X7B, 46_702_792_704),
        (GEMMA_3_1B, 999_885_952),
        (QWEN_25_05B, 494_032_768),
    ],
)
def test_parameters_are_those_of_the_checkpoint(config: dict[str, Any], total: int) -> None:
    assert parameters(spec_of(config)).total == total


@pytest.mark.parametrize(
    "variant", ["llama", "smollm2", "qwen2", "olmo2", "gemma3_text", "mixtral", "qwen3_moe", "phi3"]
)
def test_parameters_are_those_that_a_checkpoint_has(variant: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    from safetensors import safe_open

    folder = tiny_checkpoint(variant)
    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    from paceline.models.configuration import read_configuration

    assert parameters(model_spec(read_configuration(str(folder)).config)).total == stored


@pytest.mark.parametrize("variant", ["llama", "smollm2", "mixtral", "gemma3_text"])
def test_work_is_that_of_the_loaded_model(variant: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    model, weighing = load_weighed(tiny_checkpoint(variant), get_backend("torch"))
    planned = work(model.spec, Format("f32", 32, "f32", 32, "f32"), 2, "f32")
    loaded = [use.weight for use in inventory(model, weighing)]
    assert [weight for weight in planned.weights if weight.part != "router"] == loaded


def test_a_token_of_a_mixture_meets_two_experts_of_eight() -> None:
    count = parameters(spec_of(MIXTRAL_8X7B))
    expert = 3 * 4096 * 14336
    assert count.total - count.active - count.table // 2 == 32 * 6 * expert
    assert 12.7e9 < count.active < 12.8e9


def test_formats_leave_embedding_and_head_alone() -> None:
    spec = spec_of(LLAMA_3_8B)
    count = parameters(spec)
    assert weight_bytes(spec, BF16) == 2 * (count.layers + count.table) + 4 * count.vectors
    assert weight_bytes(spec, FP8) == count.layers + 2 * count.table + 4 * count.vectors
    heads = {form.name: work(spec, form, 2, "bf16").weights[-1] for form in (BF16, FP8)}
    assert heads["fp8"] == heads["bf16"]
    body = work(spec, FP8, 2, "bf16").weights[0]
    assert (body.nbytes, body.arithmetic) == (6144 * 4096, "fp8")


def test_cache_of_llama_3_8b_takes_131072_bytes_a_token() -> None:
    attention = cache_attention(spec_of(LLAMA_3_8B), ideal_machine(1e9))
    assert attention.cache_bytes(1) == 131_072
    assert attention.cache_bytes(8192) == 2**30


def test_cache_of_gemma_3_stops_growing_in_windowed_layers() -> None:
    attention = cache_attention(spec_of(GEMMA_3_1B), ideal_machine(1e9))
    assert attention.cache_bytes(100) == 26 * 100 * 1024
    assert attention.cache_bytes(10_000) == (4 * 10_000 + 22 * 512) * 1024
    for tokens in (300, 512, 5_000):
        assert tokens_within(attention, attention.cache_bytes(tokens)) == tokens
        assert tokens_within(attention, attention.cache_bytes(tokens) - 1) == tokens - 1


def test_a_cache_of_windows_only_holds_any_sequence() -> None:
    windowed = Attention(4, 1, 64, (100, 200), 2, "bf16")
    assert tokens_within(windowed, windowed.cache_bytes(10**6)) == 2**31 - 1
    assert tokens_within(windowed, windowed.cache_bytes(150)) == 150


def test_room_is_what_weights_and_activations_leave() -> None:
    spec = spec_of(LLAMA_3_8B)
    sequence = 400 * 131_072
    needed = weight_bytes(spec, BF16) + activation_bytes(spec, ideal_machine(1))
    found = room(spec, BF16, ideal_machine(needed + 3.5 * sequence), 400)
    assert (found.sequences, found.fits, found.missing) == (3, True, 0.0)
    assert found.tokens == 1400
    assert found.cache == pytest.approx(3.5 * sequence, rel=1e-6)
    small = room(spec, BF16, ideal_machine(needed + 0.25 * sequence), 400)
    assert (small.sequences, small.fits, small.tokens) == (0, False, 100)
    assert small.missing == pytest.approx(0.75 * sequence, rel=1e-6)


def test_a_sequence_pays_for_whole_blocks() -> None:
    spec = spec_of(LLAMA_3_8B)
    assert room(spec, BF16, ideal_machine(1e12), 401).sequence_bytes == 416 * 131_072


def test_devices_that_share_a_model_share_its_cache_as_far_as_it_has_heads() -> None:
    spec = spec_of(LLAMA_3_8B)
    h100 = find_gpu("h100")
    for count, heads in ((1, 8), (4, 8), (8, 8), (16, 16)):
        assert cache_attention(spec, gpu_machine(h100, count)).kv_heads == heads


def test_experts_that_a_row_chooses_are_its_activations() -> None:
    dense, mixture = (activation_bytes(spec_of(config), ideal_machine(1)) for config in (LLAMA_3_8B, MIXTRAL_8X7B))
    logits = 4 * 64 * (128256 - 32000)
    assert mixture - dense == 2048 * 4 * 2 * 14336 - logits


def test_the_head_comes_last_and_dense_layers_stand_beside_mixtures() -> None:
    config = {
        **MIXTRAL_8X7B,
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 100,
        "num_experts": 4,
        "mlp_only_layers": [0, 1],
    }
    products = shapes(spec_of(config))
    assert [(weight.part, weight.count) for weight in products] == [
        ("q, k, v", 32), ("attention output", 32), ("gate and up", 2), ("down", 2), ("router", 30), ("experts", 30),
        ("head", 1),
    ]  # fmt: skip
