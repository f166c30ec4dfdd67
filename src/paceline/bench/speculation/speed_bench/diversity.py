"""Choosing prompts that differ: the least summed cosine similarity over all pairs, as SPEED-Bench's qualitative split.

The exact minimum is NP-hard; greedy selection is followed by swaps of one chosen against one other candidate until no
swap improves the sum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

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
    if count >= len(vectors):
        return _in_greedy_order(similarity, list(range(len(vectors))))
    chosen = _improved(similarity, _greedy(similarity, list(range(len(vectors))), count))
    return _in_greedy_order(similarity, sorted(chosen))


def _greedy(similarity: npt.NDArray[np.float64], candidates: list[int], count: int) -> list[int]:
    """Begins with the least similar pair and adds whichever candidate is least similar to those that are there."""
    if count <= 0 or not candidates:
        return []
    among = similarity[np.ix_(candidates, candidates)].copy()
    np.fill_diagonal(among, np.inf)
    first, second = np.unravel_index(int(among.argmin()), among.shape) if len(candidates) > 1 else (0, 0)
    order = list(dict.fromkeys((int(first), int(second))))[:count]
    sums = similarity[np.ix_(candidates, candidates)][:, order].sum(axis=1)
    while len(order) < count:
        sums[order] = np.inf
        best = int(sums.argmin())
        order.append(best)
        sums += similarity[candidates, candidates[best]]
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


def _in_greedy_order(similarity: npt.NDArray[np.float64], chosen: list[int]) -> list[int]:
    return _greedy(similarity, chosen, len(chosen))
