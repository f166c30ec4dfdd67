"""The random stream: known answers, and independence of everything that must not matter."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from paceline.sampling.random import Purpose, philox, philox_scalar, uniform, uniforms

# Random123's published answers for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, result: str) -> None:
    vector = philox(np.array([words(counter)], np.uint64), np.array([words(key)], np.uint64))
    assert vector.tolist() == [words(result)]
    assert list(philox_scalar(tuple(words(counter)), tuple(words(key)))) == words(result)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 500])
def test_a_number_is_the_same_alone_and_in_any_batch(count: int) -> None:
    rng = random.Random(count)
    seeds = [rng.randrange(-(2**63), 2**64) for _ in range(count)]
    indices = [rng.randrange(128) for _ in range(count)]
    positions = [rng.randrange(2**20) for _ in range(count)]
    alone = [uniform(*key) for key in zip(seeds, indices, positions, strict=True)]
    assert uniforms(seeds, indices, positions) == alone
    assert uniforms(seeds[::-1], indices[::-1], positions[::-1]) == alone[::-1]


def test_a_negative_seed_is_its_64_bit_pattern() -> None:
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0) != uniform(1, 0, 0)


def test_every_part_of_the_name_changes_the_number() -> None:
    names = [(1, 0, 0, 0, 0), (1 << 32, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 1, 0), (0, 0, 0, 0, 1)]
    assert len({uniform(*name) for name in [(0, 0, 0, 0, 0), *names]}) == len(names) + 1


def chi_square_limit(freedom: int, deviations: float = 4.0) -> float:
    """Wilson and Hilferty's approximation of the quantile that far out in standard deviations."""
    spread = 2.0 / (9.0 * freedom)
    return freedom * (1.0 - spread + deviations * math.sqrt(spread)) ** 3


def test_numbers_are_uniform_over_positions_sequences_and_seeds() -> None:
    n, bins = 20_000, 200
    for seeds, indices, positions in (
        ([7] * n, [0] * n, range(n)),
        ([7] * n, range(n), [5] * n),
        (range(n), [0] * n, [5] * n),
        ([s << 32 for s in range(n)], [0] * n, [5] * n),
    ):
        values = np.array(uniforms(list(seeds), list(indices), list(positions)))
        assert values.min() >= 0.0
        assert values.max() < 1.0
        counts = np.histogram(values, bins, (0.0, 1.0))[0]
        assert ((counts - n / bins) ** 2 / (n / bins)).sum() < chi_square_limit(bins - 1)


def test_neighbouring_streams_are_independent() -> None:
    n, bins = 40_000, 20
    positions = list(range(n))
    first = np.array(uniforms([3] * n, [0] * n, positions))
    others = [
        uniforms([3] * n, [0] * n, [p + 1 for p in positions]),
        uniforms([3] * n, [1] * n, positions),
        uniforms([4] * n, [0] * n, positions),
        uniforms([3] * n, [0] * n, positions, Purpose.ACCEPT),
        uniforms([3] * n, [0] * n, positions, draw=1),
    ]
    for other in others:
        counts = np.histogram2d(first, np.array(other), bins, ((0, 1), (0, 1)))[0]
        expected = n / bins**2
        assert ((counts - expected) ** 2 / expected).sum() < chi_square_limit(bins**2 - 1)


def test_numbers_use_all_53_bits() -> None:
    patterns = [int(value * 2**53) for value in uniforms([0] * 400, [0] * 400, list(range(400)))]
    for bit in range(53):
        ones = sum(pattern >> bit & 1 for pattern in patterns)
        assert 140 < ones < 260
