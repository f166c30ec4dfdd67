"""Adapters in native memory: bfloat16 beside weights that are rounded as much themselves, else float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from paceline import _cpu
from paceline.backends.lora import PARTS, LoraPart, Site, check_parts
from paceline.quantization.packed import PackedWeight

#: Weights whose own rounding, or that of the activations they read, is that of bfloat16 or coarser.
_COARSE = ("bf16", "q4", "q8")


class AdapterStore:
    """Knows the weights that adapters can update, and fills the native slots that programs read."""

    def __init__(self, slots: int) -> None:
        self.native: Any = _cpu.Adapters(slots)
        self._slots = slots
        self._shapes: dict[Site, tuple[int, int]] = {}
        self._coarse: set[Site] = set()

    def register(self, parts: Sequence[PackedWeight], sites: Sequence[Site]) -> list[int]:
        """Notes the weights; gives the number of each, -1 where it has no site."""
        if not sites:
            return [-1] * len(parts)
        for site, part in zip(sites, parts, strict=True):
            self._shapes[site] = part.shape
            (self._coarse.add if part.kind in _COARSE else self._coarse.discard)(site)
        return [_number(site) for site in sites]

    def load(self, index: int, parts: Mapping[Site, LoraPart]) -> None:
        """See ``Backend.load_adapter``."""
        assert 0 <= index < self._slots, f"there is no adapter slot {index}"
        check_parts(parts, self._shapes)
        packed: dict[tuple[int, bool], Any] = {}  # parts of a fused weight share one A
        native = []
        for site in sorted(parts, key=_number):
            part, coarse = parts[site], site in self._coarse
            key = (id(part.a), coarse)
            if key not in packed:
                packed[key] = _numbers(part.a, coarse)
            native.append((_number(site), part.scale, packed[key], _numbers(part.b, coarse)))
        self.native.load(index, native)

    def unload(self, index: int) -> None:
        """See ``Backend.unload_adapter``."""
        self.native.unload(index)


def _number(site: Site) -> int:
    return site[0] * len(PARTS) + PARTS.index(site[1])


def _numbers(matrix: torch.Tensor, coarse: bool) -> Any:
    """Contiguous float32, or the bits of bfloat16."""
    if not coarse:
        return matrix.float().contiguous().numpy()
    return matrix.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
