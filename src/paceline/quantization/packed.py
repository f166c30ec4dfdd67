"""The canonical form of a weight matrix, whatever file it came from.

Readers (GGUF, safetensors, later GPTQ/AWQ/FP8) produce ``PackedWeight``; backends consume it and may lay it out
again for their kernels. Readers contain no kernels, kernels know no formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["f32", "bf16", "f16", "q4", "q8"]

#: Code that stands for zero when a quantized weight has no minima.
ZERO_POINT = {"q4": 8, "q8": 128}


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A matrix of shape ``[rows, columns]`` (``[out_features, in_features]`` for a linear layer).

    Dense kinds (``f32``, ``bf16``, ``f16``): ``data`` is ``[rows, columns]`` of that dtype.

    Quantized kinds: columns are cut into groups of ``group_size``; with code ``c`` of a group whose scale is ``s``,
    the weight is exactly ``s * c + m`` where ``m`` is the group's minimum, or ``s * (c - ZERO_POINT[kind])`` when
    ``minimum`` is None.

    * ``q4``: ``data`` is uint8 ``[rows, columns / 2]``; column ``2j`` is the low nibble of byte ``j``.
    * ``q8``: ``data`` is uint8 ``[rows, columns]``.
    * ``scale``, ``minimum``: ``[rows, columns / group_size]``, float16 where the file has exactly that, else float32.
    """

    kind: Kind
    data: torch.Tensor
    scale: torch.Tensor | None = None
    minimum: torch.Tensor | None = None
    group_size: int = 0

    @property
    def quantized(self) -> bool:
        return self.kind in ZERO_POINT

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.data.shape
        return rows, columns * 2 if self.kind == "q4" else columns

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and minima together."""
        parts = (self.data, self.scale, self.minimum)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def dequantize(self) -> torch.Tensor:
        """The weights as float32 ``[rows, columns]``: the reference that every kernel is tested against."""
        if not self.quantized:
            return self.data.float()
        assert self.scale is not None
        codes = self.data
        if self.kind == "q4":
            codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1)
        rows, columns = self.shape
        grouped = codes.view(rows, columns // self.group_size, self.group_size).float()
        scale = self.scale.float().unsqueeze(-1)
        if self.minimum is None:
            out = (grouped - ZERO_POINT[self.kind]) * scale
        else:
            out = grouped * scale + self.minimum.float().unsqueeze(-1)
        return out.view(rows, columns)

    def rows(self, start: int, stop: int) -> PackedWeight:
        """Rows ``start:stop`` as a view (to cut a fused matrix into its parts)."""
        return PackedWeight(
            self.kind,
            self.data[start:stop],
            None if self.scale is None else self.scale[start:stop],
            None if self.minimum is None else self.minimum[start:stop],
            self.group_size,
        )
