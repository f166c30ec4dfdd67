"""Whether the engine's guesses come true: how likely it thought drafts to survive, and how many did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class CalibrationBin(NamedTuple):
    """Draft tokens whose predicted probability of survival lay in one range (``name``: a drafter's, or a range).

    ``predicted`` and ``realised`` are means over ``tokens`` verified draft tokens: the probability that the controller
    expected, and the share that was accepted.
    """

    name: str
    predicted: float
    realised: float
    tokens: int


@dataclass(slots=True)
class Calibration:
    """Bins pooled over passes, from engines that offer ``speculation_calibration()``: what it counted since
    ``reset_speculation()``, as an iterable of ``CalibrationBin`` or equal tuples."""

    _sums: dict[str, tuple[float, float, int]] = field(default_factory=dict)

    def add(self, engine: object) -> None:
        """Adds what this engine counted; nothing when it offers none."""
        offer = getattr(engine, "speculation_calibration", None)
        for entry in offer() if offer is not None else ():
            name, predicted, realised, count = entry
            before = self._sums.get(str(name), (0.0, 0.0, 0))
            self._sums[str(name)] = (before[0] + predicted * count, before[1] + realised * count, before[2] + count)

    def bins(self) -> list[CalibrationBin]:
        """All bins with at least one token, in the order of their names."""
        return [
            CalibrationBin(name, predicted / count, realised / count, count)
            for name, (predicted, realised, count) in sorted(self._sums.items())
            if count
        ]

    @property
    def error(self) -> float | None:
        """Expected calibration error: the mean over draft tokens of their bin's |predicted - realised|."""
        return expected_error(self.bins())


def expected_error(bins: Iterable[CalibrationBin]) -> float | None:
    """None without bins."""
    bins = list(bins)
    total = sum(entry.tokens for entry in bins)
    return sum(entry.tokens * abs(entry.predicted - entry.realised) for entry in bins) / total if total else None
