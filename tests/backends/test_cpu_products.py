"""Matrix products of the native backend, for every kind of weight, against float64 with the same rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_programs import RowFunction, dense, each_variant, expected_product, noise, product, quantized, spread

from paceline.quantization.packed import PackedWeight

HALF, FULL = torch.float16, torch.float32

#: Every layout of quantized weights that the kernels tell apart.
LAYOUTS = {
    "q4": {"kind": "q4"},
    "q4-f32-scales": {"kind": "q4", "scales": FULL},
    "q4-minima": {"kind": "q4", "minima": True},
    "q4-minima-f32-scales": {"kind": "q4", "minima": True, "scales": FULL},
    "q4-groups-of-64": {"kind": "q4", "group": 64},
    "q4-groups-of-128-minima": {"kind": "q4", "group": 128, "minima": True},
    "q8": {"kind": "q8"},
    "q8-f32-scales": {"kind": "q8", "scales": FULL},
    "q8-minima": {"kind": "q8", "minima": True},
    "q8-minima-f32-scales": {"kind": "q8", "minima": True, "scales": FULL},
    "q8-groups-of-16": {"kind": "q8", "group": 16},
    "q8-groups-of-16-f32-scales": {"kind": "q8", "group": 16, "scales": FULL},
    "q8-groups-of-64-minima": {"kind": "q8", "group": 64, "minima": True},
    "q8-groups-of-128": {"kind": "q8", "group": 128},
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
each_dense_kind = pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])

#: Of which the kernels have none, so that they are read as float32.
UNUSUAL = {
    "q4-groups-of-16": {"kind": "q4", "group": 16},
    "q8-groups-of-16-minima": {"kind": "q8", "group": 16, "minima": True},
    "q8-groups-of-48": {"kind": "q8", "group": 48},
}


def assert_product(variant: str, weight: PackedWeight, x: torch.Tensor) -> None:
    expected, most = expected_product(variant, weight, x)
    error = np.abs(product(variant, [weight], x).double().numpy() - expected)
    assert (error <= most).all(), f"error {error.max():.2e} where {most[error > most].min():.2e} is allowed"


def columns_of(layout: dict, at_least: int) -> int:
    group = layout.get("group", 32)
    return -(-at_least // group) * group


@each_variant
@each_layout
@pytest.mark.parametrize("outs, columns, rows", [(16, 64, 1), (33, 96, 5), (7, 16, 3), (200, 352, 8), (1, 288, 11)])
def test_quantized_product(variant: str, layout: dict, outs: int, columns: int, rows: int) -> None:
    columns = columns_of(layout, columns)
    assert_product(variant, quantized(rows=outs, columns=columns, **layout), spread(rows, columns))


@each_variant
@each_dense_kind
@pytest.mark.parametrize("outs, columns, rows", [(16, 64, 1), (33, 97, 5), (7, 1, 3), (200, 330, 8), (1, 3, 11)])
def test_dense_product(variant: str, kind: str, outs: int, columns: int, rows: int) -> None:
    assert_product(variant, dense(noise(outs, columns), kind), spread(rows, columns))


@pytest.mark.parametrize("layout", UNUSUAL.values(), ids=list(UNUSUAL))
def test_groupings_without_a_kernel_are_multiplied_in_float32(layout: dict) -> None:
    weight = quantized(rows=20, columns=96, **layout)
    x = spread(4, 96)
    variant = "avx2"
    assert_product(variant, dense(weight.dequantize()), x)
    assert torch.equal(product(variant, [weight], x), product(variant, [dense(weight.dequantize())], x))


@each_variant
def test_the_largest_codes_and_activations_do_not_overflow(variant: str) -> None:
    """Integer sums at their bounds, of either sign; avx2 adds pairs of products in 16 bits."""
    width, outs = 128, 16
    signs = torch.ones(4, width)
    signs[1] = -1
    signs[2, ::2] = -1
    signs[3, 1::2] = -1
    for kind in ("q4", "q8"):
        for minima in (False, True):
            for byte in (0x00, 0xFF):
                codes = torch.full((outs, width // 2 if kind == "q4" else width), byte, dtype=torch.uint8)
                scale = torch.ones(outs, width // 32)
                weight = PackedWeight(kind, codes, scale, -scale if minima else None, 32)
                whole = weight.dequantize().double()  # whole numbers: the sum is exact
                found = product(variant, [weight], signs * 127).double()
                assert torch.equal(found, 127 * signs.double() @ whole.T), (kind, minima, byte)


@each_variant
def test_parts_of_different_kinds_stack_to_one_matrix(variant: str) -> None:
    """Each part has its own last, partly filled tile, and its own idea of the activations."""
    columns = 128
    parts = [
        quantized("q4", 20, columns, minima=True),
        quantized("q8", 3, columns, group=16),
        dense(noise(17, columns), "bf16"),
        quantized("q8", 40, columns, scales=FULL),
        dense(noise(5, columns), "f16"),
        dense(noise(16, columns), "f32"),
        quantized("q4", 9, columns, group=64, scales=FULL),
    ]
    x = spread(9, columns)
    whole = product(variant, parts, x)
    assert torch.equal(whole, torch.cat([product(variant, [part], x) for part in parts], dim=1))


@each_variant
@pytest.mark.parametrize("weight", [quantized("q4", 40, 96), dense(noise(40, 96), "bf16")], ids=["q4", "bf16"])
def test_bias_scale_and_residual_are_added_to_the_product(variant: str, weight: PackedWeight) -> None:
    outs, columns = weight.shape
    bias, x = noise(outs), spread(10, columns)
    x[:, outs:] = 0  # the residual stream is as wide as the product
    down = product(variant, [weight], x)

    def biased(ops, x, backend):
        return ops.linear(x, backend.matrix([weight]), backend.vector(bias))

    assert torch.equal(RowFunction(variant, x, outs, biased)(), down + bias)

    square = PackedWeight("f32", torch.cat([torch.zeros(columns - outs, columns), weight.dequantize()]))
    exact = product(variant, [square], x)

    def scaled_residual(ops, x, backend):
        y = ops.linear(x, backend.matrix([square]))
        return ops.add(ops.add(x, y, 0.25), ops.linear(x, backend.matrix([square])), 1.0)

    torch.testing.assert_close(RowFunction(variant, x, columns, scaled_residual)(), x + 1.25 * exact)

    def fused_residual(ops, x, backend):
        y = ops.linear(ops.norm(x, backend.vector(torch.ones(columns)), 0.0), backend.matrix([square]))
        return ops.add(x, y, 0.25)

    normed = x / x.double().pow(2).mean(-1, keepdim=True).sqrt()
    reference = x + 0.25 * (normed @ square.data.double().T)
    torch.testing.assert_close(
        RowFunction(variant, x, columns, fused_residual)().double(), reference, rtol=1e-5, atol=1e-5
    )


@each_variant
def test_the_head_scales_before_it_caps(variant: str) -> None:
    weight, x = dense(noise(50, 64)), noise(6, 64) * 4
    exact = x.double() @ weight.data.double().T * 0.3
    torch.testing.assert_close(
        product(variant, [weight], x, 0.3, 5.0).double(), 5 * torch.tanh(exact / 5), rtol=0, atol=1e-5
    )
    assert product(variant, [weight], 1000 * x, 0.3, 5.0).abs().max() == 5.0


@each_variant
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu"])
@pytest.mark.parametrize("outs", [16, 24, 32, 200, 272])
def test_gated_products(variant: str, activation: str, outs: int) -> None:
    """Gate and up of different kinds; outs that end anywhere in a pair of tiles."""
    columns, x = 96, noise(9, 96)
    gate, up = quantized("q8", outs, columns), quantized("q4", outs, columns, minima=True)

    def gated(ops, x, backend):
        return ops.gated_linear(x, backend.matrix([gate]), backend.matrix([up]), activation)

    functions = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    }
    gates, ups = (torch.from_numpy(expected_product(variant, weight, x)[0]) for weight in (gate, up))
    found = RowFunction(variant, x, outs, gated)().double()
    error = (found - functions[activation](gates) * ups).abs()
    assert (error <= 1e-6 * (1 + gates.abs()) * (1 + ups.abs())).all(), error.max()


DOWN = {
    "q4": quantized("q4", 64, 96),
    "q8-groups-of-16": quantized("q8", 64, 96, group=16),
    "bf16": dense(noise(64, 96), "bf16"),
}


@each_variant
@pytest.mark.parametrize("down", DOWN.values(), ids=list(DOWN))
def test_hidden_activations_reach_the_next_product_as_they_would_from_outside(variant: str, down: PackedWeight) -> None:
    """The gated product writes its output in the form that the next product reads; the padding is none of it."""
    x, gate, up = noise(11, 64), quantized("q4", 96, 64), quantized("q4", 96, 64, seed=5)

    def hidden(ops, x, backend):
        return ops.gated_linear(x, backend.matrix([gate]), backend.matrix([up]), "silu")

    def both(ops, x, backend):
        return ops.linear(hidden(ops, x, backend), backend.matrix([down]))

    inside = RowFunction(variant, x, 64, both)()
    assert torch.equal(inside, product(variant, [down], RowFunction(variant, x, 96, hidden)()))


@each_variant
@pytest.mark.parametrize("layout", [*LAYOUTS.values(), {"kind": "f32"}, {"kind": "f16"}, {"kind": "bf16"}],
                         ids=[*LAYOUTS, "f32", "f16", "bf16"])  # fmt: skip
def test_embedding_gives_dequantized_rows(variant: str, layout: dict) -> None:
    vocabulary, width = 53, columns_of(layout, 96)
    if layout["kind"] in ("f32", "f16", "bf16"):
        table = dense(noise(vocabulary, width), layout["kind"])
    else:
        table = quantized(rows=vocabulary, columns=width, **layout)

    def embed(ops, x, backend):
        return ops.add(x, ops.embed(backend.matrix([table]), 3.0))

    found = RowFunction(variant, torch.zeros(vocabulary, width), width, embed)()
    expected = table.dequantize() * 3.0
    if table.minimum is None:
        assert torch.equal(found, expected)
    else:  # scale * code + minimum may be rounded once or twice
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
