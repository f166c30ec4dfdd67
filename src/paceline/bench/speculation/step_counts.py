"""What a server's counters say about drafts, as vLLM names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepCounts:
    """``drafts``: verification steps that had a draft. ``drafted``, ``accepted``: draft tokens. ``per_position[i]``:
    drafts of which the token at position ``i`` was accepted; empty where the server does not tell."""

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    per_position: Sequence[int] = ()

    def __sub__(self, earlier: StepCounts) -> StepCounts:
        """What was counted since."""
        before = [*earlier.per_position, *[0] * (len(self.per_position) - len(earlier.per_position))]
        return StepCounts(
            self.drafts - earlier.drafts,
            self.drafted - earlier.drafted,
            self.accepted - earlier.accepted,
            [now - then for now, then in zip(self.per_position, before, strict=True)],
        )

    @property
    def lengths(self) -> dict[int, int]:
        """Number of drafted steps by L, the tokens that they gave: P(L >= i + 2) is ``per_position[i]`` / ``drafts``.
        Empty where the server does not tell positions, or tells what cannot be."""
        at_least = [self.drafts, *self.per_position, 0]
        found = {i + 1: at_least[i] - at_least[i + 1] for i in range(len(at_least) - 1)}
        known = bool(self.per_position) and sum(self.per_position) == self.accepted and min(found.values()) >= 0
        return {length: count for length, count in found.items() if count} if known else {}
