"""Inputs that no sane model has: they harm their own row at most, and a wrong number shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_programs import RowFunction, dense, each_variant, expected_product, noise, product, quantized, spread
from test_cpu_elementwise import LAYERS, make_attention, qkv_width

from paceline.quantization.packed import PackedWeight

WEIGHTS = {
    "q4": quantized("q4", 40, 96),
    "q4-minima": quantized("q4", 40, 96, minima=True),
    "q8": quantized("q8", 40, 96),
    "q8-minima": quantized("q8", 40, 96, minima=True),
    "q8-groups-of-16": quantized("q8", 40, 96, group=16),
    "f32": dense(noise(40, 96)),
    "f16": dense(noise(40, 96), "f16"),
    "bf16": dense(noise(40, 96), "bf16"),
}
each_weight = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=list(WEIGHTS))


@each_variant
@each_weight
def test_a_row_of_zeros_gives_zeros(variant: str, weight: PackedWeight) -> None:
    x = spread(5, 96)
    x[2] = 0
    assert torch.equal(product(variant, [weight], x)[2], torch.zeros(40))


@each_variant
@each_weight
def test_products_scale_with_their_activations_over_the_whole_range(variant: str, weight: PackedWeight) -> None:
    """From just above the denormal numbers to just below infinity, and with both in the same group."""
    for size in (1e-33, 1e-20, 1e20, 1e34):
        x = spread(3, 96).clamp(-1e3, 1e3) * size
        x[2] *= torch.logspace(-30, 0, 96)
        expected, most = expected_product(variant, weight, x)
        error = np.abs(product(variant, [weight], x).double().numpy() - expected)
        assert (error <= most).all(), size


@each_variant
@each_weight
def test_denormal_activations_count_as_nothing(variant: str, weight: PackedWeight) -> None:
    x = spread(3, 96)
    x[1] = torch.linspace(-1e-38, 1e-38, 96)
    x[2, 32:64] = 1e-40
    zeros = x.clone()
    zeros[1], zeros[2, 32:64] = 0, 0
    found = product(variant, [weight], x)
    torch.testing.assert_close(found, product(variant, [weight], zeros), rtol=1e-6, atol=1e-35)


@each_variant
@each_weight
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 15, 16, 31, 40, 95])
def test_a_number_that_is_none_spoils_its_whole_row_and_no_other(
    variant: str, weight: PackedWeight, bad: float, place: int
) -> None:
    x = spread(11, 96)
    expected = product(variant, [weight], x)
    x[4, place] = bad
    found = product(variant, [weight], x)
    rest = [row for row in range(11) if row != 4]
    assert torch.equal(found[rest], expected[rest])
    assert not found[4].isfinite().any()


@each_variant
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu"])
def test_nan_passes_through_gated_products_caps_and_experts(variant: str, activation: str) -> None:
    x = spread(6, 96)
    x[3, 7] = float("nan")
    gate, up = quantized("q4", 64, 96), quantized("q8", 64, 96)

    def gated(ops, x, backend):
        return ops.gated_linear(x, backend.matrix([gate]), backend.matrix([up]), activation)

    found = RowFunction(variant, x, 64, gated)()
    assert found[3].isnan().all() and found[[0, 1, 2, 4, 5]].isfinite().all()
    capped = product(variant, [up], x, 1.0, 5.0)
    assert capped[3].isnan().all() and capped[[0, 1, 2, 4, 5]].isfinite().all()


@each_variant
def test_attention_to_a_nan_is_nan_and_attention_before_it_is_not(variant: str) -> None:
    layer = LAYERS["plain"]
    for part in range(3):  # queries, keys, values
        qkv = noise(90, qkv_width(layer))
        expected = make_attention(variant, layer, qkv)()
        width = layer.num_heads * layer.head_dim
        qkv[64, part * width : (part + 1) * width] = float("nan")
        found = make_attention(variant, layer, qkv)()
        assert torch.equal(found[:48], expected[:48])
        assert found[64].isnan().all()
        assert found[65:].isnan().all() or part == 0


@each_variant
def test_outliers_in_a_float16_cache_become_its_largest_number(variant: str) -> None:
    """An infinity would turn the rows before it into NaN, though they cannot see it."""
    layer = LAYERS["plain"]
    qkv = noise(40, qkv_width(layer))
    expected = make_attention(variant, layer, qkv, "f16")()
    qkv[30, -1] = 1e6  # of the last value
    qkv[30, 2 * layer.num_heads * layer.head_dim - 1] = -1e6  # of the last key
    found = make_attention(variant, layer, qkv, "f16")()
    assert torch.equal(found[:30], expected[:30])
    assert found.isfinite().all() and found[30:, -1].max() > 60_000


@each_variant
def test_a_norm_of_tiny_or_huge_rows_is_finite(variant: str) -> None:
    x = torch.stack([torch.zeros(96), torch.full((96,), 1e-40), torch.full((96,), 1e30), spread(1, 96)[0]])
    found = RowFunction(variant, x, 96, lambda ops, x, backend: ops.norm(x, backend.vector(torch.ones(96)), 1e-6))()
    assert found.isfinite().all()
    assert torch.equal(found[0], torch.zeros(96))
