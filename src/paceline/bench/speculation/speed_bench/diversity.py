"""Choosing prompts that differ: the least summed cosine similarity over all pairs, as SPEED-Bench's qualitative split.

The exact minimum is NP-hard; greedy selection from several starts is followed by swaps of one chosen against one other
candidate until no swap improves the sum, and the best result counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

STARTS = 16
MOST_SWAPS = 10_000
IMPROVES = 1e-6  # less than this is rounding


def summed_similarity(vectors: Vectors, chosen: list[int]) -> float:
    """Sum of the cosines of all pairs of the ``chosen`` rows of ``vectors`` [candidates, dimensions], unit length."""
    picked = vectors[chosen].astype(np.float64)
    return float(((picked @ picked.T).sum() - np.einsum("ij,ij->", picked, picked)) / 2)


def choose_diverse(vectors: Vectors, count: int) -> list[int]:
    """Indices of ``count`` rows (all, if there are no more) in an order of which every beginning is diverse, too.

    ``vectors`` [candidates, dimensions] have unit length. Deterministic: of equal candidates the first is taken.
    """
    similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    everything = list(range(len(vectors)))
    if count >= len(vectors):
        return _greedy(similarity, everything, count)
    starts = [None, *everything[:: max(1, len(vectors) // STARTS)]]
    found = [_improved(similarity, _greedy(similarity, everything, count, start)) for start in starts]
    best = min(found, key=lambda chosen: round(summed_similarity(vectors, chosen) / IMPROVES))
    return _greedy(similarity, best, count)


def _greedy(
    similarity: npt.NDArray[np.float64], candidates: list[int], count: int, start: int | None = None
) -> list[int]:
    """Begins with ``start`` (None: the least similar pair) and adds whichever candidate is least similar to those that
    are there."""
    if count <= 0 or not candidates:
        return []
    among = similarity[np.ix_(candidates, candidates)]
    if start is not None:
        order = [candidates.index(start)]
    elif len(candidates) > 1:
        pairs = among.copy()
        np.fill_diagonal(pairs, np.inf)
        order = [int(i) for i in np.unravel_index(int(pairs.argmin()), pairs.shape)][:count]
    else:
        order = [0]
    sums = among[:, order].sum(axis=1)
    while len(order) < min(count, len(candidates)):
        sums[order] = np.inf
        order.append(int(sums.argmin()))
        sums += among[:, order[-1]]
    return [candidates[i] for i in order]


def _improved(similarity: npt.NDArray[np.float64], chosen: list[int]) -> list[int]:
    """Swaps, the best one first, until none lowers the sum."""
    inside = np.array(sorted(chosen))
    for _ in range(MOST_SWAPS):
        outside = np.setdiff1d(np.arange(len(similarity)), inside)
        to_chosen = similarity[:, inside].sum(axis=1)
        # In comes a row of ``outside``, out goes a column of ``inside``: the change of the sum over pairs.
        change = (
            to_chosen[outside][:, None]
            - similarity[np.ix_(outside, inside)]
            - (to_chosen[inside] - similarity[inside, inside])[None, :]
        )
        comes, goes = np.unravel_index(int(change.argmin()), change.shape)
        if change[comes, goes] > -IMPROVES:
            break
        inside[goes] = outside[comes]
        inside.sort()
    return [int(i) for i in inside]
