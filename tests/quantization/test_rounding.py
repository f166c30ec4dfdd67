"""Rounding to canonical kinds: the error is at most half a step of a group's codes."""

from __future__ import annotations

import pytest
import torch

from paceline.quantization.rounding import quantize


@pytest.mark.parametrize(("kind", "codes"), [("q8", 254), ("q4", 15)])
def test_rounded_weights_are_within_half_a_code(kind: str, codes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(24, 96, generator=generator) * torch.exp(2 * torch.randn(24, 1, generator=generator))
    weights[3] = 0.0
    packed = quantize(weights, kind)
    assert packed.kind == kind and packed.shape == (24, 96) and packed.scale.shape == (24, 3)
    largest = weights.view(24, 3, 32).abs().amax(dim=-1, keepdim=True)
    step = largest / (codes // 2 if kind == "q8" else 8)
    error = (packed.dequantize() - weights).view(24, 3, 32).abs()
    limit = 0.5 * step + largest * 2**-10  # and the rounding of the scale
    if kind == "q4":  # the end without the largest weight has a code less: opposite weights as large lose a whole step
        limit = limit + 0.5 * step
    assert (error <= limit).all()
    assert error.square().mean() < (0.35 * step).square().mean()


@pytest.mark.parametrize("kind", ["q8", "q4"])
def test_the_largest_weight_of_a_group_stays_what_it_is(kind: str) -> None:
    weights = torch.zeros(2, 32)
    weights[0, 5], weights[1, 31] = -3.0, 0.75
    assert torch.allclose(quantize(weights, kind).dequantize(), weights, rtol=1e-3)
