"""Weights in native memory: tiles of 16 outputs, huge pages, kept as long as the backend lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from paceline import _cpu
from paceline.quantization.packed import PackedWeight


@dataclass(frozen=True, slots=True, eq=False)
class CpuMatrix:
    """A packed matrix ``[rows, columns]``; ``kinds`` are those of its parts."""

    native: Any
    rows: int
    columns: int
    kinds: frozenset[str]
    parts: int


class WeightStore:
    """Packs canonical weights into native memory."""

    def __init__(self) -> None:
        self._native = _cpu.Store()

    def matrix(self, parts: Sequence[PackedWeight], sites: Sequence[int]) -> CpuMatrix:
        """Stacks ``parts`` along the output dimension; they may be of different kinds but not of different widths.
        ``sites``: a number for each part, by which adapters know it, or -1."""
        native = self._native.matrix()
        columns = parts[0].shape[1]
        for part, site in zip(parts, sites, strict=True):
            assert part.shape[1] == columns, "stacked weights must read the same activations"
            native_part = _supported(part)
            self._native.add_part(
                native,
                kind=native_part.kind,
                rows=native_part.shape[0],
                columns=columns,
                group=native_part.group_size,
                scale_f32=native_part.scale is not None and native_part.scale.dtype == torch.float32,
                data=_bytes(native_part.data),
                scale=None if native_part.scale is None else _bytes(native_part.scale),
                minimum=None if native_part.minimum is None else _bytes(native_part.minimum),
                site=site,
            )
        rows = sum(part.shape[0] for part in parts)
        return CpuMatrix(native, rows, columns, frozenset(_supported_kind(part) for part in parts), len(parts))

    def vector(self, values: torch.Tensor) -> Any:
        """A float32 vector."""
        return self._native.vector(values.detach().float().contiguous().numpy())


def _fits(part: PackedWeight) -> bool:
    """Whether the integer kernels have this grouping: 8-bit codes in groups of 16, any codes in multiples of 32."""
    if part.group_size == 16:
        return part.kind == "q8" and part.minimum is None
    return part.group_size % 32 == 0


def _supported_kind(part: PackedWeight) -> str:
    return part.kind if not part.quantized or _fits(part) else "f32"


def _supported(part: PackedWeight) -> PackedWeight:
    if not part.quantized or _fits(part):
        return part
    return PackedWeight("f32", part.dequantize())


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.contiguous().view(torch.uint8).view(-1).numpy()
