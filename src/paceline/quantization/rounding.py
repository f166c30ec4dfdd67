"""Rounds float matrices to the canonical quantized kinds: for weights that are made here, not read from a file."""

from __future__ import annotations

from typing import Literal

import torch

from paceline.quantization.packed import ZERO_POINT, PackedWeight

GROUP = 32


def quantize(weights: torch.Tensor, kind: Literal["q4", "q8"], group_size: int = GROUP) -> PackedWeight:
    """Symmetric codes with one float16 scale for ``group_size`` columns: the largest weight of a group takes an end of
    the codes' range. ``weights`` is ``[rows, columns]``, columns in whole groups."""
    rows, columns = weights.shape
    assert columns % group_size == 0, f"{columns} columns are not whole groups of {group_size}"
    zero = ZERO_POINT[kind]
    grouped = weights.detach().float().reshape(rows, columns // group_size, group_size)
    if kind == "q8":
        scale = grouped.abs().amax(dim=-1) / (zero - 1)
    else:  # 16 codes are few: the largest weight, whatever its sign, takes the one end that has a code more
        largest = grouped.gather(-1, grouped.abs().argmax(dim=-1, keepdim=True)).squeeze(-1)
        scale = largest / -zero
    scale = scale.to(torch.float16)
    divisor = torch.where(scale == 0, 1.0, scale.float()).unsqueeze(-1)
    codes = (torch.round(grouped / divisor) + zero).clamp(0, 2 * zero - 1).to(torch.uint8).view(rows, columns)
    if kind == "q4":
        codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return PackedWeight(kind, codes.contiguous(), scale, None, group_size)
