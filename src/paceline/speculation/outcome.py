"""What verification gives, and what the rules for drawn drafts see of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from paceline.speculation.draft import Distribution
from paceline.speculation.noise import StepNoise


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome for one sequence.

    ``token_ids`` are its new tokens: the accepted draft tokens, then the token sampled behind them (-1 where the last
    row of ``path`` has nothing to sample). ``path`` are the indices, among the sequence's own logit rows, of the rows
    whose tokens stand, in order: row 0 (the last committed token) first, then ``i + 1`` for accepted draft token ``i``.
    Keys and values of these rows stay; ``token_ids[k]`` follows the token of row ``path[k]``.
    """

    token_ids: list[int]
    path: list[int]

    @property
    def num_accepted(self) -> int:
        """Draft tokens accepted."""
        return len(self.path) - 1


@runtime_checkable
class Target(Protocol):
    """The target's side of one sequence in one step."""

    @property
    def noise(self) -> StepNoise: ...

    def distribution(self, row: int) -> Distribution | None:
        """The fully processed distribution behind the sequence's logit row ``row``, as if the draft tokens on the path
        to it had been emitted; None where there is none (the model's logits are not numbers, masks leave nothing).
        Rules ask for the rows that they need, which may cost more than all the rest of a rule."""
