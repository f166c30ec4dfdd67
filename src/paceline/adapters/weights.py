"""An adapter in memory: the low-rank updates of a model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paceline.adapters.adapter import Speculator
from paceline.backends.lora import PARTS, LoraPart, Site, check_parts

__all__ = ["PARTS", "AdapterWeights", "LoraPart", "Site", "check_parts"]


@dataclass(frozen=True, slots=True, eq=False)
class AdapterWeights:
    """What ``Backend.load_adapter`` takes as ``parts``. Weights without a part stay as they are. ``speculator``: what
    drafts for the adapter, laid out and ready; None: it came without."""

    parts: Mapping[Site, LoraPart]
    speculator: Speculator | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices as float32, and of the speculator. Parts of a fused module share one A, which counts
        once."""
        matrices = {id(m): m for part in self.parts.values() for m in (part.a, part.b)}
        own: int = sum(matrix.numel() * matrix.element_size() for matrix in matrices.values())
        return own + (0 if self.speculator is None else self.speculator.nbytes)
