"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011).

A number is a pure function of (seed, sequence index, position, purpose), so batch composition, preemption, restarts
and speculation cannot change it. Key: the seed's two 32-bit halves. Counter: position, sequence index, purpose, and
the number's place among the numbers drawn for that purpose at that position.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_MASK = 0xFFFFFFFF
_TO_UNIT = 2.0**-53

Words = npt.NDArray[np.uint64]  # 32-bit words held in 64 bits, so that products need no second type


class Purpose(IntEnum):
    """What a number decides. Numbers of different purposes are independent of each other."""

    SAMPLE = 0
    DRAFT = 1
    ACCEPT = 2
    RESIDUAL = 3


def philox(counter: Words, key: Words) -> Words:
    """Philox4x32-10 of ``counter [N, 4]`` under ``key [N, 2]``; both hold 32-bit words. Gives ``[N, 4]``."""
    c0, c1, c2, c3 = (counter[:, i].copy() for i in range(4))
    k0, k1 = key[:, 0], key[:, 1]
    mask, shift = np.uint64(_MASK), np.uint64(32)
    for _ in range(_ROUNDS):
        p0, p1 = c0 * np.uint64(_M0), c2 * np.uint64(_M1)
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & mask, (p0 >> shift) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + np.uint64(_W0)) & mask, (k1 + np.uint64(_W1)) & mask
    return np.stack((c0, c1, c2, c3), axis=1)


def uniforms(
    seed: npt.ArrayLike, index: npt.ArrayLike, position: npt.ArrayLike, purpose: Purpose = Purpose.SAMPLE, draw: int = 0
) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits, one for each (seed, sequence index, position).

    ``seed`` is taken modulo 2**64; the three broadcast against each other (at most one dimension). ``draw`` counts
    further numbers for the same purpose and position.
    """
    seeds = np.atleast_1d(_as_words(seed, 64))
    arrays = np.broadcast_arrays(seeds, np.atleast_1d(_as_words(index, 32)), np.atleast_1d(_as_words(position, 32)))
    seeds, indices, positions = arrays
    fill = np.zeros_like(positions)
    counter = np.stack((positions, indices, fill + np.uint64(purpose), fill + np.uint64(draw)), axis=1)
    key = np.stack((seeds & np.uint64(_MASK), seeds >> np.uint64(32)), axis=1)
    words = philox(counter, key)
    high, low = words[:, 0] >> np.uint64(5), words[:, 1] >> np.uint64(6)
    return (high * np.uint64(1 << 26) + low).astype(np.float64) * _TO_UNIT


def _as_words(values: npt.ArrayLike, bits: int) -> Words:
    """``values`` modulo ``2**bits`` (numpy refuses negative numbers, and Python has no fixed width)."""
    if isinstance(values, int):
        return np.asarray(values & ((1 << bits) - 1), dtype=np.uint64)
    if isinstance(values, (list, tuple)):
        return np.asarray([int(value) & ((1 << bits) - 1) for value in values], dtype=np.uint64)
    words = np.asarray(values).astype(np.uint64)
    return words if bits == 64 else words & np.uint64(_MASK)
