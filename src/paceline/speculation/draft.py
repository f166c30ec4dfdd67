"""Proposed tokens: the type that drafters produce and the scheduler, runner and verifier consume."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft tokens for one sequence, in an order in which parents come before children.

    ``parents[i]`` is the index of token ``i``'s parent in this draft, -1 for a child of the sequence's last token;
    None means a chain (``parents[i] == i - 1``). ``probabilities`` is the drafter's own probability of each token,
    None when the draft is one-hot. ``survival[i]`` estimates the probability that token ``i`` is accepted together
    with all its ancestors.
    """

    token_ids: tuple[int, ...]
    drafter: str
    parents: tuple[int, ...] | None = None
    probabilities: tuple[float, ...] | None = None
    survival: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        assert self.parents is None or all(-1 <= p < i for i, p in enumerate(self.parents))

    def __len__(self) -> int:
        return len(self.token_ids)

    def trim(self, count: int) -> Draft:
        """The first ``count`` tokens (still closed under parents)."""
        if count >= len(self):
            return self

        def cut(values: tuple | None) -> tuple | None:
            return None if values is None else values[:count]

        return Draft(
            self.token_ids[:count], self.drafter, cut(self.parents), cut(self.probabilities), cut(self.survival)
        )
