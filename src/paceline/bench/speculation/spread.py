"""Minimum, mean, standard deviation and quartiles, as SPEED-Bench reports its times and rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paceline.bench.speculation.turns import Pass, Turn
from paceline.bench.statistics import quantile


@dataclass(frozen=True, slots=True)
class Spread:
    """Of ``count`` values; ``std`` is the population's (divided by the count), as numpy's."""

    count: int
    min: float
    mean: float
    std: float
    q1: float
    median: float
    q3: float
    max: float


def spread(values: Sequence[float]) -> Spread | None:
    """None without values."""
    if not values:
        return None
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    q1, median, q3 = (quantile(values, q) for q in (0.25, 0.5, 0.75))
    return Spread(len(values), min(values), mean, std, q1, median, q3, max(values))


@dataclass(frozen=True, slots=True)
class Timing:
    """Of the requests (turns) of some passes: user TPS in tokens/s, TTFT and E2E in seconds, and ``output_rates``,
    output tokens a second, one a pass."""

    user_rate: Spread | None
    ttft: Spread | None
    e2e: Spread | None
    output_rates: Sequence[float]


def timing(passes: Iterable[Pass]) -> Timing:
    """``E2E`` is from sending to the last token."""
    passes = [passed for passed in passes if passed.turns]
    turns: list[Turn] = [turn for passed in passes for turn in passed.turns.values() if turn.tokens]
    rates = [rate for turn in turns if (rate := turn.user_rate) is not None]
    return Timing(
        spread(rates),
        spread([turn.ttft for turn in turns]),
        spread([turn.seconds for turn in turns]),
        [passed.output_rate for passed in passes],
    )
