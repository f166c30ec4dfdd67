"""Medians, quartiles and ratios of interleaved measurements.

Two engines are compared by the ratio of their medians. Its spread comes from the rounds: measurements of one round
lie next to each other in time, so slow drifts of the machine (frequency, neighbours) cancel in the ratio of a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q`` quantile (0 to 1) with linear interpolation between neighbours; raises ``ValueError`` if empty."""
    if not values:
        raise ValueError("a quantile needs at least one value")
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass(frozen=True, slots=True)
class Summary:
    """Median and quartiles of ``count`` values."""

    median: float
    q1: float
    q3: float
    count: int

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median (0: all equal)."""
        return (self.q3 - self.q1) / abs(self.median) if self.median else 0.0


def summarize(values: Sequence[float]) -> Summary:
    """Median and quartiles of ``values``; raises ``ValueError`` if there are none."""
    return Summary(quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75), len(values))


def compare(values: Sequence[float], reference: Sequence[float]) -> Summary:
    """``values / reference``: ratio of the medians, and quartiles of the ratios of single rounds.

    Both are in order of the rounds. When their lengths differ (a round failed), the quartiles come from the rounds
    that both have.
    """
    rounds = [value / base for value, base in zip(values, reference, strict=False) if base]
    base = quantile(reference, 0.5)
    if not rounds or not base:
        raise ValueError("a ratio needs a reference that is not zero")
    ratio = quantile(values, 0.5) / base
    return Summary(ratio, quantile(rounds, 0.25), quantile(rounds, 0.75), len(rounds))
