"""Norms, rotations, attention and activations of the native backend against the same formulas in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from cpu_programs import RowFunction, dense, each_variant, noise, spread

from paceline.backends.base import AttentionLayer, CacheDtype, CacheSpec, RopeSpec


@each_variant
@pytest.mark.parametrize("width", [1, 5, 16, 37, 64, 100, 200, 576])
def test_norm(variant: str, width: int) -> None:
    x, weight = spread(9, width), noise(width)
    exact = x.double()
    expected = exact / (exact.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    found = RowFunction(variant, x, width, lambda ops, x, backend: ops.norm(x, backend.vector(weight), 1e-5))()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@each_variant
@pytest.mark.parametrize("y_norm", [False, True])
@pytest.mark.parametrize("width", [37, 96, 160])
def test_residual_additions_between_norms(variant: str, width: int, y_norm: bool) -> None:
    """x + 0.7 norm(y), normed again: one pass over the row, whose padding is no part of it."""
    x, weights = spread(9, width), noise(3, width)
    weights = weights[:, :width].contiguous()

    def exact_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()

    def function(ops, x, backend):
        first, second, third = (backend.vector(weight) for weight in weights)
        y = ops.linear(ops.norm(x, first, 1e-5), backend.matrix([dense(torch.eye(width))]))
        y = ops.norm(y, second, 1e-5) if y_norm else y
        return ops.norm(ops.add(x, y, 0.7), third, 1e-5)

    y = exact_norm(x.double(), weights[0])
    y = exact_norm(y, weights[1]) if y_norm else y
    expected = exact_norm(x.double() + 0.7 * y, weights[2])
    torch.testing.assert_close(RowFunction(variant, x, width, function)().double(), expected, rtol=2e-6, atol=1e-5)


@each_variant
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu"])
def test_activations_from_end_to_end(variant: str, activation: str) -> None:
    """Gate is the value itself and up is 1."""
    values = torch.cat([torch.linspace(-100, 100, 801), torch.logspace(-30, 30, 61), -torch.logspace(-30, 30, 61)])
    x = torch.nn.functional.pad(values, (0, -len(values) % 31)).reshape(-1, 31)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    gate, up = dense(torch.eye(31, 32)), torch.zeros(31, 32)
    up[:, 31] = 1

    def function(ops, x, backend):
        return ops.gated_linear(x, backend.matrix([gate]), backend.matrix([dense(up)]), activation)

    exact = x[:, :31].double()
    functions = {
        "silu": lambda x: x * torch.sigmoid(x),
        "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    }
    found = RowFunction(variant, x, 31, function)().double()
    error = (found - functions[activation](exact)).abs()
    assert (error <= 3e-7 * exact.abs()).all()


ROPE = RopeSpec(tuple(10_000.0 ** (-2 * i / 24) for i in range(12)))

#: Heads of odd sizes, shared keys, partial rotation, scaled rotation, norms of both kinds, soft caps and windows.
LAYERS = {
    "plain": AttentionLayer(0, num_heads=4, num_kv_heads=4, head_dim=32, scale=0.2),
    "one-kv-head": AttentionLayer(0, num_heads=9, num_kv_heads=1, head_dim=64, scale=0.125, rope=ROPE),
    "many-queries": AttentionLayer(0, num_heads=32, num_kv_heads=1, head_dim=16, scale=0.3),
    "odd-heads": AttentionLayer(0, num_heads=3, num_kv_heads=1, head_dim=25, scale=0.2, rope=ROPE),
    "rotated": AttentionLayer(0, num_heads=6, num_kv_heads=2, head_dim=24, scale=0.3, rope=ROPE),
    "scaled-rotation": AttentionLayer(0, 4, 2, 40, scale=0.2, rope=replace(ROPE, attention_factor=1.3)),
    "soft-cap": AttentionLayer(0, num_heads=4, num_kv_heads=2, head_dim=80, scale=0.5, softcap=3.0),
    "window": AttentionLayer(0, 4, 2, head_dim=8, scale=0.4, window=37, rope=RopeSpec((1.0, 0.1))),
    "window-of-one": AttentionLayer(0, num_heads=2, num_kv_heads=2, head_dim=32, scale=0.4, window=1),
    "norm-per-head": AttentionLayer(0, 4, 2, 32, scale=0.2, rope=ROPE, q_norm=noise(32), k_norm=noise(32)),
    "norm-whole": AttentionLayer(0, 4, 2, 32, scale=0.2, rope=ROPE, q_norm=noise(128), k_norm=noise(64)),
    "largest-heads": AttentionLayer(0, num_heads=2, num_kv_heads=1, head_dim=512, scale=0.03),
}  # fmt: skip
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))
ROUNDING = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8}


def qkv_width(layer: AttentionLayer) -> int:
    return (layer.num_heads + 2 * layer.num_kv_heads) * layer.head_dim


def make_attention(variant: str, layer: AttentionLayer, qkv: torch.Tensor, dtype: CacheDtype = "f32") -> RowFunction:
    cache = CacheSpec(layer.num_kv_heads, layer.head_dim, (0,), (layer.window,), dtype=dtype)

    def function(ops, x, backend):
        norms = {name: getattr(layer, name) for name in ("q_norm", "k_norm")}
        native = replace(layer, **{name: backend.vector(norm) for name, norm in norms.items() if norm is not None})
        return ops.attention(ops.rope_and_store(x, native), native)

    width = layer.num_heads * layer.head_dim
    return RowFunction(variant, qkv, width, function, max_rows=len(qkv), cache=cache)


def exact_attention(layer: AttentionLayer, qkv: torch.Tensor, first_position: int = 0) -> torch.Tensor:
    rows = len(qkv)
    sizes = [heads * layer.head_dim for heads in (layer.num_heads, layer.num_kv_heads, layer.num_kv_heads)]
    q, k, v = qkv.double().split(sizes, dim=1)
    q, k = (exact_rotation(layer, x, norm, first_position) for x, norm in ((q, layer.q_norm), (k, layer.k_norm)))
    v = v.view(rows, -1, layer.head_dim)
    k, v = (x.repeat_interleave(layer.num_heads // layer.num_kv_heads, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * layer.scale
    if layer.softcap:
        scores = layer.softcap * torch.tanh(scores / layer.softcap)
    age = torch.arange(rows).unsqueeze(1) - torch.arange(rows)
    hidden = (age < 0) | (age >= layer.window if layer.window else False)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), v).flatten(1)


def exact_rotation(
    layer: AttentionLayer, x: torch.Tensor, norm: torch.Tensor | None, first_position: int
) -> torch.Tensor:
    def normed(x: torch.Tensor) -> torch.Tensor:
        return x if norm is None else x / (x.pow(2).mean(-1, keepdim=True) + layer.norm_eps).sqrt() * norm.double()

    heads = x.view(len(x), -1, layer.head_dim)
    x = normed(heads) if norm is None or len(norm) == layer.head_dim else normed(x).view_as(heads)
    if layer.rope is None:
        return x
    # Angles are products of two float32 numbers, rounded to float32, as everywhere.
    positions = torch.arange(first_position, first_position + len(x), dtype=torch.float32)
    angles = torch.outer(positions, torch.tensor(layer.rope.inv_freq)).double().unsqueeze(1)
    cos, sin = angles.cos() * layer.rope.attention_factor, angles.sin() * layer.rope.attention_factor
    a, b, rest = x.split([cos.shape[-1], cos.shape[-1], layer.head_dim - 2 * cos.shape[-1]], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


@each_variant
@each_layer
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_attention(variant: str, layer: AttentionLayer, dtype: CacheDtype) -> None:
    """A prompt of 150 rows, in one step; rounding keys and values moves scores and so probabilities."""
    qkv = noise(150, qkv_width(layer))
    tolerance = 1e-5 + 20 * ROUNDING[dtype]
    found = make_attention(variant, layer, qkv, dtype)()
    torch.testing.assert_close(found.double(), exact_attention(layer, qkv), rtol=0, atol=tolerance)


@each_variant
@each_layer
def test_attention_of_single_rows_far_into_the_context(variant: str, layer: AttentionLayer) -> None:
    qkv, position = noise(150, qkv_width(layer)), 100_000
    expected = exact_attention(layer, qkv, position)
    function = make_attention(variant, layer, qkv)
    function(range(146), first_position=position)
    for row in range(146, 150):
        found = function([row], context=row, first_position=position)
        torch.testing.assert_close(found.double(), expected[row : row + 1], rtol=0, atol=1e-5)


@each_variant
def test_attention_with_very_large_scores_picks_the_largest(variant: str) -> None:
    layer = LAYERS["plain"]
    qkv = noise(100, qkv_width(layer))
    found = make_attention(variant, replace(layer, scale=1e4), qkv)()
    torch.testing.assert_close(found.double(), exact_attention(replace(layer, scale=1e4), qkv), rtol=0, atol=1e-2)
