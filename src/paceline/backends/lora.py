"""What an adapter is to a backend: low-rank updates of named weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from paceline.errors import AdapterError

#: The weights of a layer that adapters can update, in the order in which a step reads them.
PARTS = ("q", "k", "v", "o", "gate", "up", "down")

#: (layer, one of ``PARTS``)
Site = tuple[int, str]


@dataclass(frozen=True, slots=True, eq=False)
class LoraPart:
    """The update of one weight ``[out, in]`` (Hu et al. 2021): ``y += scale * (x @ a.T) @ b.T``."""

    a: torch.Tensor  # [rank, in] float32
    b: torch.Tensor  # [out, rank] float32
    scale: float

    @property
    def rank(self) -> int:
        return len(self.a)


def check_parts(parts: Mapping[Site, LoraPart], shapes: Mapping[Site, tuple[int, int]]) -> None:
    """Raises ``AdapterError`` unless every part updates a weight of its shape. ``shapes``: ``(out, in)`` by site."""
    for site, part in parts.items():
        if site not in shapes:
            raise AdapterError(f"the adapter updates {site[1]!r} of layer {site[0]}, which the model does not have")
        out, columns = shapes[site]
        rank = part.rank
        if rank == 0 or part.a.shape != (rank, columns) or part.b.shape != (out, rank):
            raise AdapterError(
                f"the adapter's update of {site[1]!r} of layer {site[0]} has A {list(part.a.shape)} and "
                f"B {list(part.b.shape)}; the weight [{out}, {columns}] needs A [rank, {columns}] and B [{out}, rank]"
            )
