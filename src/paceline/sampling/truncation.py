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

from paceline.sampling.gumbel import Floats, first_arrival
from paceline.sampling.params import SamplingParams
from paceline.sampling.state import Ids

Row = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float64]

_GROUP = 64  # tokens in a group whose maximum is taken
_BLOCK = 128  # weights summed together before the cumulative sum of a whole row
_SORTED_AT_ONCE = 1024
_BINS = 1024.0
_LEAST_SPAN = 1e-30  # so that bins per unit are finite
_LOWEST = float(np.finfo(np.float32).min)
_MAX_INVERSE_TEMPERATURE = 1e30  # beyond it every logit gap is infinite anyway


def descending(values: Row) -> Ids:
    """The permutation that sorts ``values`` (no NaN) in descending order, equal ones by place.

    One sort of 64-bit keys: the upper half falls as the float rises, the lower half is the place.
    """
    bits = (values + np.float32(0.0)).view(np.int32)  # adding zero turns -0.0 into 0.0
    rising = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    keys = (~rising).astype(np.int64) << 32
    keys |= np.arange(len(values))
    keys.sort()
    keys &= 0xFFFFFFFF
    return keys


def shortest_head(values: Row, weights: Row, target: float) -> Ids:
    """Places of the first ``values`` in descending order (equal ones by place) whose ``weights`` sum to ``target``: no
    more than it takes, at least one, all if they fall short. Ascending places."""
    if len(values) > _SORTED_AT_ONCE:
        top = values.max()
        span = float(top) - float(values.min())
        if _LEAST_SPAN < span < -_LOWEST:
            return _head_by_bins(values, weights, target, ((top - values) * np.float32(_BINS / span)).astype(np.int64))
    order = descending(values)
    head = order[: int(weights[order].cumsum(dtype=np.float64).searchsorted(target)) + 1]
    head.sort()
    return head


def _head_by_bins(values: Row, weights: Row, target: float, bins: Ids) -> Ids:
    """``shortest_head`` where values of a lower bin come first: only the bin that reaches the target is looked into."""
    cumulative = np.bincount(bins, weights).cumsum()
    crossing = min(int(cumulative.searchsorted(target)), len(cumulative) - 1)
    before = float(cumulative[crossing - 1]) if crossing else 0.0
    band = (bins == crossing).nonzero()[0]
    chosen = bins < crossing
    chosen[band[shortest_head(values[band], weights[band], target - before)]] = True
    return chosen.nonzero()[0]


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
    return candidates[descending(row[candidates])[:count]]


class Truncator:
    """Owns the scratch memory for rows of ``vocab_size`` logits."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        padded = -(-vocab_size // _BLOCK) * _BLOCK
        self._padded = np.zeros(padded, dtype=np.float32)
        self._weights: Row = self._padded[:vocab_size]
        self._many = vocab_size // 8  # tokens from which passes over the whole row are cheaper than picking them out
        self._blocks = self._padded.reshape(-1, _BLOCK)
        self._all: Ids = np.arange(vocab_size)
        self._all.flags.writeable = False

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
        if len(ids) > self._many:
            self._fill_weights(row, top, params)
            kept = np.zeros(self.vocab_size, dtype=np.bool_)
            kept[ids] = True
            np.multiply(self._weights, kept, out=self._weights)
            return self._draw_from_blocks(uniform)
        return int(ids[inverse_cdf(np.exp(scale(row[ids], top, params)), uniform)])

    def draw_coupled(self, row: Row, top: np.float32, params: SamplingParams, uniforms: Floats) -> int:
        """The token of the truncated distribution that arrives first, by the noise ``uniforms`` ``[V]`` of tokens."""
        ids = self.support(row, top, params)
        if ids is None:
            self._fill_weights(row, top, params)
            return first_arrival(self._weights, uniforms)
        if len(ids) == 1:
            return int(ids[0])
        return int(ids[first_arrival(np.exp(scale(row[ids], top, params)), uniforms[ids])])

    def distribution(self, row: Row, top: np.float32, params: SamplingParams) -> tuple[Ids, Weights]:
        """The truncated distribution: ascending ids and their probabilities (sum 1). Not to be written to."""
        ids = self.support(row, top, params)
        if ids is None:
            self._fill_weights(row, top, params)
            ids, weights = self._all, self._weights
        else:
            weights = np.exp(scale(row[ids], top, params))
        return ids, weights / weights.sum(dtype=np.float64)

    def support(self, row: Row, top: np.float32, params: SamplingParams) -> Ids | None:
        """Ascending ids of the tokens that top_k, top_p, min_p and typical_p leave; None: none of them is used."""
        if 0 < params.top_k < self.vocab_size:
            ids = largest(row, params.top_k)
            ids.sort()
            if params.top_p < 1.0:
                weights = np.exp(scale(row[ids], top, params))
                ids = ids[shortest_head(row[ids], weights, params.top_p * float(weights.sum(dtype=np.float64)))]
        elif params.top_p < 1.0:
            ids = self._nucleus(row, top, params)
        elif params.min_p > 0.0 or params.typical_p < 1.0:
            ids = (row >= _bound(top, params.min_p, params.temperature)).nonzero()[0]
        else:
            return None
        if params.min_p > 0.0:
            ids = ids[scale(row[ids], top, params) >= np.float32(math.log(params.min_p))]
        if params.typical_p < 1.0:
            ids = ids[typical(scale(row[ids], top, params), params.typical_p)]
        return ids

    def _nucleus(self, row: Row, top: np.float32, params: SamplingParams) -> Ids:
        """top_p of the whole row. Tokens under the least weight can be left out even if all V of them weighed that
        much; most rows get by with a higher threshold, above which few are left to be looked at."""
        self._fill_weights(row, top, params)
        weights = self._weights
        mass = float(weights.sum())
        target, least = params.top_p * mass, (1.0 - params.top_p) * mass / self.vocab_size
        for factor in (64.0, 8.0):
            ids = (row >= _bound(top, min(1.0, factor * least), params.temperature)).nonzero()[0]
            if len(ids) > self._many:
                break
            chosen = weights[ids]
            if float(chosen.sum(dtype=np.float64)) >= target:
                return ids[shortest_head(row[ids], chosen, target)]
        return shortest_head(np.maximum(row, _bound(top, least, params.temperature)), weights, target)

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


def _bound(top: np.float32, weight: float, temperature: float) -> np.float32:
    """The logit of a token that weighs ``weight`` in [0, 1] (1: the likeliest token), or a little less, so that
    rounding here loses no token; above that of a masked one."""
    if weight <= 0.0:
        return np.float32(_LOWEST)
    bound = float(top) + 1.0001 * temperature * math.log(weight) - 1e-5 * abs(float(top)) - 1e-5
    return np.float32(max(bound, _LOWEST))


def typical(scaled: Row, typical_p: float) -> npt.NDArray[np.bool_]:
    """Locally typical sampling (Meister et al. 2022): which tokens of a distribution have a surprise nearest to its
    entropy, as many as it takes to reach ``typical_p``; ties with the last one stay.

    ``scaled`` are the logits as ``scale`` gives them.
    """
    weights = np.exp(scaled)
    mass = float(weights.sum(dtype=np.float64))
    surprise = math.log(mass) - scaled
    entropy = float((weights * surprise).sum(dtype=np.float64, where=weights > 0.0)) / mass
    distance = np.abs(surprise - np.float32(entropy))
    head = shortest_head(-distance, weights, typical_p * mass)
    kept: npt.NDArray[np.bool_] = distance <= distance[head].max()
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
