"""How much of a second drafter's word is news, learned from what texts became."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from math import sqrt

from paceline.speculation.merge import Lesson, Pair

#: Before anything was seen a second word counts half: drafters look at the same text.
START, START_VARIANCE = 0.5, 0.1
DRIFT = 1e-6  # variance that comes back at each outcome: old evidence fades
LEAST_NOISE = 0.01  # variance of an outcome that was thought to be certain


class Agreement:
    """Weights of pairs of drafters for ``merge``: a scalar Kalman filter each, as a token's probability is linear in
    its weight (``Lesson``)."""

    def __init__(self) -> None:
        self._weights: dict[Pair, tuple[float, float]] = {}  # mean, variance

    def weight(self, pair: Pair) -> float:
        """In [0, 1]: what is sure of it, a standard deviation below the mean. A word that is believed too much costs
        rows, one that is believed too little is verified where rows are cheap, and proves itself there."""
        mean, variance = self._weights.get(pair, (START, START_VARIANCE))
        return max(0.0, mean - sqrt(variance))

    def learn(self, lessons: Seq[Lesson], outcomes: Seq[bool | None]) -> None:
        """``outcomes``: of the merged draft's tokens, as ``outcomes_of`` gives them."""
        for pair, place, before, gain in lessons:
            accepted = outcomes[place] if place < len(outcomes) else None
            if accepted is None or gain <= 0.0:
                continue
            mean, variance = self._weights.get(pair, (START, START_VARIANCE))
            p = min(1.0, before + mean * gain)
            step = variance * gain / (variance * gain * gain + max(p * (1.0 - p), LEAST_NOISE))
            mean = min(1.0, max(0.0, mean + step * (accepted - p)))
            self._weights[pair] = (mean, variance * (1.0 - step * gain) + DRIFT)
