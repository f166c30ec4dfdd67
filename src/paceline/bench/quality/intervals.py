"""How far a score of a few questions may be from that of all questions: 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.bench.quality.tasks import Counts

Z = 1.959964  # normal quantile of 97.5%
RESAMPLES = 4000
SEED = 1  # of the resampling: the same answers give the same interval
LOW, HIGH = 0.025, 0.975

Interval = tuple[float, float]
_Numbers = npt.NDArray[np.float64]


def wilson(right: int, of: int) -> Interval:
    """Wilson's score interval of a share, which is sensible near 0 and 1 and for few questions (Wilson, 1927). Raises
    ``ValueError`` for no questions."""
    if of < 1:
        raise ValueError("an interval needs at least one question")
    share, weight = right / of, Z * Z / of
    centre = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(counts: Sequence[Counts]) -> Interval:
    """Percentile bootstrap over questions of the micro F1: for scores that are no plain share."""
    return _percentiles(_resampled([counts])[0])


def bootstrap_change(counts: Sequence[Counts], reference: Sequence[Counts]) -> Interval:
    """The same for the difference to ``reference``, which answered the same questions: each resample takes both answers
    of a question, so what only the choice of questions does cancels."""
    if len(counts) != len(reference):
        raise ValueError(f"{len(counts)} answers cannot be compared with {len(reference)}")
    ours, theirs = _resampled([counts, reference])
    return _percentiles(ours - theirs)


def _resampled(columns: Sequence[Sequence[Counts]]) -> list[_Numbers]:
    """Micro F1 of RESAMPLES random draws of the questions, the same draws for every column."""
    number = len(columns[0])
    if not number:
        raise ValueError("an interval needs at least one question")
    drawn = np.random.default_rng(SEED).integers(0, number, (RESAMPLES, number))
    found = []
    for column in columns:
        hits = np.array([2.0 * count.hits for count in column])
        totals = np.array([float(count.guesses + count.golds) for count in column])
        above, below = hits[drawn].sum(axis=1), totals[drawn].sum(axis=1)
        found.append(np.where(below > 0, above / np.maximum(below, 1.0), 1.0))
    return found


def _percentiles(values: _Numbers) -> Interval:
    low, high = np.quantile(values, [LOW, HIGH])
    return float(low), float(high)
