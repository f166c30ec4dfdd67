"""Looking tokens up in sparse distributions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paceline.sampling.state import Ids
from paceline.speculation.draft import Distribution, Weights


def probability_of(distribution: Distribution, token: int) -> float:
    """The probability of ``token``; 0 where the distribution leaves it out."""
    ids, probabilities = distribution
    place = token if is_dense(ids) else int(ids.searchsorted(token))
    return float(probabilities[place]) if 0 <= place < len(ids) and ids[place] == token else 0.0


def probabilities_of(distribution: Distribution, tokens: Ids) -> Weights:
    """The probability of each of ``tokens``; 0 where the distribution leaves it out."""
    places, found = places_of(distribution[0], tokens)
    return distribution[1][places] * found


def places_of(ids: Ids, tokens: Ids) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Where each of ``tokens`` stands in the ascending ``ids``, and whether it does (where not: some place)."""
    if is_dense(ids):
        return np.minimum(tokens, len(ids) - 1), tokens < len(ids)
    places = np.minimum(ids.searchsorted(tokens), len(ids) - 1)
    return places, ids[places] == tokens


def excess(p: Distribution, q: Distribution, share: float = 1.0) -> Weights:
    """max(share * p - q, 0) of each id of ``p``."""
    places, found = places_of(p[0], q[0])
    left = p[1] * share
    places = places[found]
    left[places] = np.maximum(left[places] - q[1][found], 0.0)
    return left


def is_dense(ids: Ids) -> bool:
    """Whether the ascending ``ids`` are 0, 1, 2 and so on: each stands at its own place."""
    return int(ids[-1]) == len(ids) - 1


def is_one_hot(distribution: Distribution) -> bool:
    return len(distribution[0]) == 1
