"""What a drafter that runs a model is expected to be good for, before it is asked."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from paceline.speculation.costs import DraftCosts
from paceline.speculation.drafters.base import Bounded, Drafter

MAX_LENGTH = 16  # tokens that are thought about
HOPE = 0.75  # acceptance of each token as long as nothing is known
RATE = 0.05  # of the mean that one proposal replaces
PROBE_LENGTH = 3
PROBE_EVERY = 256  # steps without a proposal after which one is made to see whether the text has changed


class Prospect:
    """One drafter: the mean survival of its tokens by position and adapter, and what its passes take."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.bounded = drafter if isinstance(drafter, Bounded) else None  # asked in every step, slow to find out
        self._means: dict[str | None, list[float]] = {}
        self._costs: DraftCosts | None = None
        self._steps = 0  # since it was last asked

    def survival(self, adapter: str | None, limit: int) -> Seq[float]:
        """Of the first ``limit`` tokens it would propose."""
        return self._mean(adapter)[:limit]

    def forget_adapter(self, adapter: str) -> None:
        """It was unloaded."""
        self._means.pop(adapter, None)

    def seconds(self, sequences: int, length: int) -> float:
        """Of a proposal of ``length`` tokens for each of ``sequences``; 0 as long as nothing is known, so that it is
        tried."""
        return 0.0 if self._costs is None else self._costs.seconds(sequences, length)

    def idle(self) -> bool:
        """Counts a step; whether it is time to look again."""
        self._steps += 1
        return self._steps >= PROBE_EVERY

    def learn(self, sequences: int, length: int, seconds: float, survivals: Seq[tuple[str | None, Seq[float]]]) -> None:
        """A proposal was made: how long it took, and what is thought of the drafts that came."""
        self._steps = 0
        if self._costs is None:
            self._costs = DraftCosts([(sequences, length, seconds)])
        else:
            self._costs.observe(sequences, length, seconds)
        for adapter, values in survivals:
            means = self._mean(adapter)
            for i, value in enumerate(values[:MAX_LENGTH]):
                means[i] += RATE * (value - means[i])
            for i in range(min(len(values), MAX_LENGTH), MAX_LENGTH):  # what it did not propose it did not believe in
                means[i] = min(means[i], means[i - 1]) if i else means[i]

    def _mean(self, adapter: str | None) -> list[float]:
        means = self._means.get(adapter)
        if means is None:
            means = self._means[adapter] = [HOPE ** (i + 1) for i in range(MAX_LENGTH)]
        return means
