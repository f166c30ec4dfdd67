"""How far predictions of survival come true: draft tokens that were verified, by drafter and predicted survival."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple

BINS = 10


class ReliabilityBin(NamedTuple):
    """Verified draft tokens whose predicted survival lay in one range: its name ("suffix 0.8-0.9"), the mean
    prediction, the share that was accepted, their number."""

    name: str
    predicted: float
    realised: float
    tokens: int


class Reliability:
    """Counts what a controller predicted of the tokens that it chose to verify."""

    def __init__(self) -> None:
        self._sums: dict[str, list[list[float]]] = {}  # by drafter: [predicted, accepted, tokens] of each bin

    def add(self, drafter: str, survival: Seq[float], outcomes: Seq[bool | None]) -> None:
        """A verified draft: the predicted survival of each of its tokens, and their outcomes as ``outcomes_of`` gives
        them. Behind a refused token of a chain all are refused; behind the end of the text nothing is known."""
        bins = self._bins(drafter)
        refused = False
        for i, predicted in enumerate(survival):
            outcome = outcomes[i] if i < len(outcomes) else None
            if outcome is None and not refused:
                return
            _count(bins, predicted, outcome is True)
            refused = refused or outcome is False

    def count(self, drafter: str, predicted: float, accepted: bool) -> None:
        """A verified token of a tree, whose fate is known."""
        _count(self._bins(drafter), predicted, accepted)

    def _bins(self, drafter: str) -> list[list[float]]:
        bins = self._sums.get(drafter)
        if bins is None:
            bins = self._sums[drafter] = [[0.0, 0.0, 0.0] for _ in range(BINS)]
        return bins

    def bins(self) -> list[ReliabilityBin]:
        """Those with tokens, by drafter and rising survival."""
        return [
            ReliabilityBin(f"{name} {i / BINS:.1f}-{(i + 1) / BINS:.1f}", p / n, a / n, int(n))
            for name, bins in sorted(self._sums.items())
            for i, (p, a, n) in enumerate(bins)
            if n
        ]


def _count(bins: list[list[float]], predicted: float, accepted: bool) -> None:
    entry = bins[min(int(predicted * BINS), BINS - 1)]
    entry[0] += predicted
    entry[1] += accepted
    entry[2] += 1.0
