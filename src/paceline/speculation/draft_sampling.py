"""From a drafter's own logits to a draft token: the likeliest one for greedy requests, a drawn one for sampled ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from paceline.sampling.params import SamplingParams
from paceline.sampling.truncation import Truncator, largest, scale
from paceline.speculation.draft import Distribution
from paceline.speculation.drafters.base import SequenceView
from paceline.speculation.noise import StepNoise

Row = npt.NDArray[np.float32]

#: Most tokens of a distribution that drafts are drawn from. The likeliest ones: what lies behind them is seldom drawn
#: and seldom accepted, and a whole vocabulary of probabilities for each draft token would cost more than it gains.
MAX_SUPPORT = 256

#: Draws the token for an absolute position of a sequence: ascending token ids, their probabilities (sum 1), the
#: sequence, the position. A pure function of these.
Draw = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64], SequenceView, int], int]


def draw_independently(
    ids: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], sequence: SequenceView, position: int
) -> int:
    """A draw with the drafts' own noise, independent of all that decides about the token later."""
    (token,) = _noise(sequence).draw(position - sequence.length, (ids, weights))
    return token


def draw_coupled(
    ids: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], sequence: SequenceView, position: int
) -> int:
    """A draw with the noise that the target will have at this position."""
    (token,) = _noise(sequence).draw_coupled(position - sequence.length, (ids, weights))
    return token


def _noise(sequence: SequenceView) -> StepNoise:
    seed = sequence.params.seed
    assert seed is not None, "whoever creates a request draws its seed"
    return StepNoise(seed, sequence.index, sequence.length)


def likeliest(row: Row) -> tuple[int, float] | None:
    """The token with the largest logit, the lowest id on ties, and its probability; None: the row is not finite."""
    token = int(row.argmax())
    top = row[token]
    if not math.isfinite(top):
        return None
    return token, 1.0 / float(np.exp(row - top).sum(dtype=np.float64))


def draft_distribution(row: Row, params: SamplingParams, truncator: Truncator) -> Distribution | None:
    """What a request's draft token is drawn from: temperature and truncation are the request's, for the target's
    distribution has them too; penalties, bias and masks are left out. None: the row is not finite."""
    top = row.max()
    if not math.isfinite(top):
        return None
    with np.errstate(over="ignore"):  # gaps beyond float32 mean probability 0
        ids = truncator.support(row, top, params)
        if ids is None:
            ids = largest(row, MAX_SUPPORT)
        elif len(ids) > MAX_SUPPORT:
            ids = ids[largest(row[ids], MAX_SUPPORT)]
        ids = np.sort(ids)
        weights = np.exp(scale(row[ids], top, params), dtype=np.float64)
    return ids, weights / weights.sum()
