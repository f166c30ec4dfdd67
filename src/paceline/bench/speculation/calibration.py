"""Whether the engine's guesses come true: how likely it thought drafts to survive, and how many did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from paceline.engine.engine import Engine
from paceline.speculation.reliability import ReliabilityBin


@dataclass(slots=True)
class Calibration:
    """Bins pooled over passes, each of which begins with ``Engine.reset_speculation``."""

    _sums: dict[str, tuple[float, float, int]] = field(default_factory=dict)

    def add(self, engine: Engine) -> None:
        """Adds what this engine counted."""
        for entry in engine.speculation_reliability():
            name, predicted, realised, count = entry
            before = self._sums.get(str(name), (0.0, 0.0, 0))
            self._sums[str(name)] = (before[0] + predicted * count, before[1] + realised * count, before[2] + count)

    def bins(self) -> list[ReliabilityBin]:
        """All bins with at least one token, in the order of their names."""
        return [
            ReliabilityBin(name, predicted / count, realised / count, count)
            for name, (predicted, realised, count) in sorted(self._sums.items())
            if count
        ]

    @property
    def error(self) -> float | None:
        """Expected calibration error: the mean over draft tokens of their bin's |predicted - realised|."""
        return expected_error(self.bins())


def expected_error(bins: Iterable[ReliabilityBin]) -> float | None:
    """None without bins."""
    bins = list(bins)
    total = sum(entry.tokens for entry in bins)
    return sum(entry.tokens * abs(entry.predicted - entry.realised) for entry in bins) / total if total else None
