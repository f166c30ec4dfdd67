"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011).

A number is a pure function of (seed, sequence index, position, purpose), so batch composition, preemption, restarts
and speculation cannot change it. Key: the seed's two 32-bit halves. Counter: position, sequence index, purpose, and
the number's place among the numbers drawn for that purpose at that position.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_MASK_32 = (1 << 32) - 1
_MASK_64 = (1 << 64) - 1
_TO_UNIT = 2.0**-53
_VECTOR_FROM = 32  # numbers for which numpy's ~100 calls cost less than Python's integers do one by one

Words = npt.NDArray[np.uint64]  # 32-bit words held in 64 bits: a product of two needs no other type


class Purpose(IntEnum):
    """What a number decides. Numbers of different purposes are independent of each other."""

    SAMPLE = 0
    DRAFT = 1
    ACCEPT = 2
    RESIDUAL = 3


def philox(counter: Words, key: Words) -> Words:
    """Philox4x32-10 of ``counter [N, 4]`` under ``key [N, 2]``; both hold 32-bit words. Gives ``[N, 4]``."""
    c0, c1, c2, c3 = counter.T
    k0, k1 = key.T
    m0, m1, w0, w1 = np.uint64(_M0), np.uint64(_M1), np.uint64(_W0), np.uint64(_W1)
    mask, shift = np.uint64(_MASK_32), np.uint64(32)
    for _ in range(_ROUNDS):
        p0, p1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & mask, (p0 >> shift) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + w0) & mask, (k1 + w1) & mask
    return np.stack((c0, c1, c2, c3), axis=1)


def philox_scalar(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """``philox`` for one counter in Python integers: about 5 us, where numpy's call overhead alone is 150 us."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _MASK_32, (p0 >> 32) ^ c3 ^ k1, p0 & _MASK_32
        k0, k1 = (k0 + _W0) & _MASK_32, (k1 + _W1) & _MASK_32
    return c0, c1, c2, c3


def uniform(seed: int, index: int, position: int, purpose: int = Purpose.SAMPLE, draw: int = 0) -> float:
    """A number in [0, 1) with 53 random bits.

    ``seed`` counts modulo 2**64, the others modulo 2**32. ``index`` tells apart the sequences of one request,
    ``draw`` further numbers for the same purpose and position.
    """
    seed &= _MASK_64
    counter = (position & _MASK_32, index & _MASK_32, purpose, draw & _MASK_32)
    first, second, _, _ = philox_scalar(counter, (seed & _MASK_32, seed >> 32))
    return ((first >> 5) * (1 << 26) + (second >> 6)) * _TO_UNIT


def uniforms(
    seeds: Sequence[int],
    indices: Sequence[int],
    positions: Sequence[int],
    purpose: int = Purpose.SAMPLE,
    draw: int = 0,
) -> list[float]:
    """``uniform`` of each (seed, index, position), bit for bit, in one vectorised pass when there are many."""
    if len(seeds) < _VECTOR_FROM:
        return [uniform(s, i, p, purpose, draw) for s, i, p in zip(seeds, indices, positions, strict=True)]
    mask = np.uint64(_MASK_32)
    seed_words = np.array([seed & _MASK_64 for seed in seeds], dtype=np.uint64)
    counter = np.empty((len(seeds), 4), dtype=np.uint64)
    counter[:, 0] = [position & _MASK_32 for position in positions]
    counter[:, 1] = [index & _MASK_32 for index in indices]
    counter[:, 2] = purpose
    counter[:, 3] = draw & _MASK_32
    words = philox(counter, np.stack((seed_words & mask, seed_words >> np.uint64(32)), axis=1))
    values = (words[:, 0] >> np.uint64(5)) * np.uint64(1 << 26) + (words[:, 1] >> np.uint64(6))
    result: list[float] = (values.astype(np.float64) * _TO_UNIT).tolist()
    return result
