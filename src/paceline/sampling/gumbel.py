"""Noise that drafts and target share: Gumbel coupling (Daliri, Musco and Suresh 2024, "Coupling without Communication
and Drafter-Invariant Speculative Decoding").

A token is drawn as argmax over the support of log p(x) + g(x), with Gumbel noise g(x) that is a pure function of
(seed, sequence index, position, token). Two distributions with distance TV, drawn so with the same noise, give the
same token with probability at least (1 - TV) / (1 + TV), and what one side draws does not depend on the other at all.

Here the equivalent race is run: with g = -log E, E exponential, the argmax is the first to arrive of tokens that take
the time E(x) / p(x). E = -log(1 - U) >= U, so one division a token finds a bound, and only tokens within it, mostly
one, need a logarithm. Noise comes from numpy's Philox4x64-10 (key: seed and index; counter: position), token ``x``
taking the ``x``-th number: it does not depend on the support or on the size of the vocabulary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paceline.sampling.state import Ids

Floats = npt.NDArray[np.float64]

_MASK_64 = (1 << 64) - 1
_LEAST = 2.0**-54  # half of the smallest number that 53 bits can give, for the one that they give as zero


def token_uniforms(seed: int, index: int, position: int, count: int) -> Floats:
    """A number in (0, 1) with 53 random bits for each of the tokens ``0..count - 1``: what the noise is made of."""
    key = np.array((seed & _MASK_64, index & _MASK_64), dtype=np.uint64)
    counter = np.array((0, 0, position, 0), dtype=np.uint64)
    numbers = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(count)
    return np.maximum(numbers, _LEAST, out=numbers)


def gumbel_noise(seed: int, index: int, position: int, vocab_size: int) -> Floats:
    """Standard Gumbel noise ``[vocab_size]`` of the token at ``position``: ``argmax(log p + noise)`` is a draw from
    ``p``, and the one that a coupled ``Sampler`` takes."""
    noise: Floats = -np.log(_arrivals(token_uniforms(seed, index, position, vocab_size)))
    return noise


def first_arrival(weights: npt.NDArray[np.floating], uniforms: Floats) -> int:
    """Index drawn in proportion to ``weights`` (not normalised, some positive), coupled by ``uniforms`` (of the same
    tokens, from ``token_uniforms``): the argmax of log weight + Gumbel noise, the lowest index on ties."""
    with np.errstate(divide="ignore", over="ignore"):  # a token without weight never arrives
        earliest = uniforms / weights
        leader = int(earliest.argmin())
        bound = _arrivals(uniforms[leader]) / weights[leader]
        rivals = (earliest <= bound).nonzero()[0]
        if len(rivals) <= 1:
            return leader
        return int(rivals[(_arrivals(uniforms[rivals]) / weights[rivals]).argmin()])


def coupled_tokens(
    ids: Ids, weights: npt.NDArray[np.floating], seed: int, index: int, position: int, count: int = 1
) -> list[int]:
    """What a drafter draws at ``position`` from ``weights`` (not normalised) of the tokens ``ids``, with the noise that
    the target will have there: the first ``count`` to arrive, in order; fewer where fewer tokens have weight.

    The first is a draw from the weights; all of them are a draw without replacement.
    """
    uniforms = token_uniforms(seed, index, position, int(ids.max()) + 1)[ids]
    if count == 1:
        return [int(ids[first_arrival(weights, uniforms)])]
    with np.errstate(divide="ignore", over="ignore"):
        times = _arrivals(uniforms) / weights
    order = np.argsort(times, kind="stable")[:count]
    return [int(token) for token in ids[order[weights[order] > 0.0]]]


def _arrivals(uniforms: npt.NDArray[np.float64] | np.float64) -> Floats:
    """Exponentially distributed numbers; exact where they are small, which is where they decide."""
    arrivals: Floats = -np.log1p(-uniforms)
    return arrivals
