"""Temperature, top_k, top_p, min_p, typical_p and the draw, for one row at a time.

Tokens are ordered by descending logit, equal logits by ascending id; every cut refers to this order, so it is exact
and unambiguous. A row passes through the same numpy calls on arrays of the same shape and layout wherever it stands
in whatever batch, hence gives the same bits. Only candidates are sorted: a cheap lower bound for the cut (maxima of
groups of tokens for top_k, total mass for top_p) separates them from the rest of the vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from paceline.sampling.params import SamplingParams
from paceline.sampling.state import Ids

Row = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float64]

_GROUP = 64  # tokens in a group whose maximum is taken
_BLOCK = 128  # weights summed together before the cumulative sum of a whole row
_LOWEST = float(np.finfo(np.float32).min)
_MAX_INVERSE_TEMPERATURE = 1e30  # beyond it every logit gap is infinite anyway


def descending(ids: Ids, values: Row) -> Ids:
    """``ids`` (distinct) sorted by descending ``values`` (no NaN), then ascending id.

    One sort of 64-bit keys: the upper half falls as the float rises, the lower half is the id.
    """
    bits = (values + np.float32(0.0)).view(np.int32)  # adding zero turns -0.0 into 0.0
    rising = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    keys = (~rising).astype(np.int64) << 32
    keys |= ids
    keys.sort()
    keys &= 0xFFFFFFFF
    return keys


def scale(values: Row, top: np.float32, params: SamplingParams, out: Row | None = None) -> Row:
    """``(values - top) / temperature``: never above 0, whatever the temperature, so its exponential cannot overflow."""
    scaled: Row = np.subtract(values, top, out=out)
    return np.multiply(scaled, np.float32(min(1.0 / params.temperature, _MAX_INVERSE_TEMPERATURE)), out=scaled)


def peaks(row: Row) -> Row:
    """Maxima of disjoint groups of tokens that cover ``row``."""
    groups = len(row) // _GROUP
    whole = groups * _GROUP
    maxima: Row = row[:whole].reshape(_GROUP, groups).max(axis=0)
    return maxima if whole == len(row) else np.concatenate((maxima, row[whole:]))


def largest(row: Row, count: int) -> Ids:
    """The ``count`` first tokens of ``row`` in the order above; fewer if fewer are not masked (-inf). No NaN."""
    if count >= len(row):
        bound = _LOWEST
    elif 2 * count <= len(row) // _GROUP:  # as many groups have a maximum of at least the bound: so do tokens
        bound = float(np.partition(peaks(row), -count)[-count])
    else:
        bound = float(np.partition(row, -count)[-count])
    candidates = (row >= np.float32(max(bound, _LOWEST))).nonzero()[0]
    return descending(candidates, row[candidates])[:count]


class Truncator:
    """Owns the scratch memory for rows of ``vocab_size`` logits."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        padded = -(-vocab_size // _BLOCK) * _BLOCK
        self._padded = np.zeros(padded, dtype=np.float32)
        self._weights: Row = self._padded[:vocab_size]
        self._blocks = self._padded.reshape(-1, _BLOCK)

    def draw(self, row: Row, top: np.float32, params: SamplingParams, uniform: float) -> int:
        """The token at ``uniform`` in [0, 1) of the truncated distribution's inverse CDF over ascending ids.

        ``top``, finite, is the largest logit of ``row``; the temperature is positive.
        """
        ids = self.support(row, top, params)
        if ids is None:
            self._fill_weights(row, top, params)
            return self._draw_from_blocks(uniform)
        if len(ids) == 1:
            return int(ids[0])
        return int(ids[inverse_cdf(np.exp(scale(row[ids], top, params)), uniform)])

    def support(self, row: Row, top: np.float32, params: SamplingParams) -> Ids | None:
        """Ascending ids of the tokens that top_k, top_p, min_p and typical_p leave; None: none of them is used."""
        mass = None
        if 0 < params.top_k < self.vocab_size:
            ids = largest(row, params.top_k)
        elif params.top_p < 1.0:
            self._fill_weights(row, top, params)
            mass = float(self._weights.sum())
            ids = self._nucleus_candidates(row, top, mass, params)
        elif params.min_p > 0.0 or params.typical_p < 1.0:
            ids = _at_least(row, top, params.min_p, params.temperature)
        else:
            return None
        ids = truncate(ids, scale(row[ids], top, params), mass, params)
        ids.sort()
        return ids

    def _nucleus_candidates(self, row: Row, top: np.float32, mass: float, params: SamplingParams) -> Ids:
        """The first tokens of the order, with at least ``top_p`` of ``mass``. Tokens under the last threshold can be
        left out even if all V of them weighed that much; most rows get by with a higher one: fewer to sort."""
        least = (1.0 - params.top_p) * mass / self.vocab_size
        for factor in (64.0, 8.0, 1.0):
            ids = _at_least(row, top, min(1.0, least * factor), params.temperature)
            if factor == 1.0 or float(self._weights[ids].sum(dtype=np.float64)) >= params.top_p * mass:
                break
        return descending(ids, row[ids])

    def _fill_weights(self, row: Row, top: np.float32, params: SamplingParams) -> None:
        np.exp(scale(row, top, params, out=self._weights), out=self._weights)

    def _draw_from_blocks(self, uniform: float) -> int:
        sums = self._blocks.sum(axis=1)
        cumulative = sums.cumsum(dtype=np.float64)
        target = uniform * float(cumulative[-1])
        block = _first_above(cumulative, target)
        before = float(cumulative[block - 1]) if block else 0.0
        within = self._blocks[block].cumsum(dtype=np.float64)
        return block * _BLOCK + _first_above(within, target - before)


def _at_least(row: Row, top: np.float32, weight: float, temperature: float) -> Ids:
    """All ids, ascending, of tokens that weigh at least ``weight`` in [0, 1] (1: the likeliest token), and perhaps
    some a little lighter, so that rounding here cannot lose one; no masked token."""
    bound = _LOWEST
    if weight > 0.0:
        gap = temperature * math.log(weight)
        bound = max(bound, float(top) + 1.0001 * gap - 1e-5 * abs(float(top)) - 1e-5)
    return (row >= np.float32(bound)).nonzero()[0]


def truncate(ids: Ids, scaled: Row, mass: float | None, params: SamplingParams) -> Ids:
    """The ``ids`` that top_p, min_p and typical_p leave (top_k is done).

    ``scaled`` are the logits of ``ids``, divided by the temperature, less the largest of the row; for top_p in
    descending order. ``mass`` is the sum of exp(scaled) over the distribution that top_p refers to; None: these ids.
    """
    if params.top_p < 1.0:
        cumulative = np.exp(scaled).cumsum(dtype=np.float64)
        whole = float(cumulative[-1]) if mass is None else mass
        count = int(cumulative.searchsorted(params.top_p * whole)) + 1  # the token that reaches top_p stays
        ids, scaled = ids[:count], scaled[:count]
    if params.min_p > 0.0:
        kept = scaled >= np.float32(math.log(params.min_p))
        ids, scaled = ids[kept], scaled[kept]
    if params.typical_p < 1.0:
        ids = ids[typical(scaled, params.typical_p)]
    return ids


def typical(scaled: Row, typical_p: float) -> npt.NDArray[np.bool_]:
    """Locally typical sampling (Meister et al. 2022): which tokens of a distribution have a surprise nearest to its
    entropy, as many as it takes to reach ``typical_p``; ties with the last one stay.

    ``scaled`` as in ``truncate``.
    """
    weights = np.exp(scaled.astype(np.float64))
    mass = float(weights.sum())
    surprise = np.log(mass) - scaled
    entropy = float((weights * surprise).sum(where=weights > 0.0)) / mass
    distance = np.abs(surprise - entropy).astype(np.float32)
    order = distance.argsort()
    cumulative = weights[order].cumsum()
    last = min(int(cumulative.searchsorted(typical_p * mass)), len(order) - 1)
    kept: npt.NDArray[np.bool_] = distance <= distance[order[last]]
    return kept


def inverse_cdf(weights: npt.NDArray[np.floating], uniform: float) -> int:
    """Index drawn in proportion to ``weights`` (not normalised, some positive) at ``uniform`` in [0, 1)."""
    cumulative = weights.cumsum(dtype=np.float64)
    return _first_above(cumulative, uniform * float(cumulative[-1]))


def _first_above(cumulative: Weights, target: float) -> int:
    """First index with ``cumulative > target``; where rounding leaves none, the last that has weight."""
    index = int(cumulative.searchsorted(target, side="right"))
    if index == len(cumulative):
        index = int(cumulative.searchsorted(cumulative[-1]))
    return index
