"""Draft tokens of blocks: the native choice against a few obvious lines."""

from __future__ import annotations

import numpy as np
import pytest

from paceline import _suffix


def choose(
    logits: np.ndarray, counts: list[int], before: list[int], previous: np.ndarray, next_: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rows = len(logits)
    chosen, survival = np.empty(rows, dtype=np.int32), np.empty(rows, dtype=np.float32)
    sizes, known = np.array(counts, dtype=np.int32), np.array(before, dtype=np.int32)
    _suffix.choose_blocks(logits, sizes, known, previous, next_, chosen, survival)
    return chosen, survival


def obvious(
    logits: np.ndarray, counts: list[int], before: list[int], previous: np.ndarray, next_: np.ndarray
) -> list[int]:
    """The likeliest of the 64 best within 8 of the best, with the bias by the token before."""
    chosen: list[int] = []
    row = 0
    for count, last in zip(counts, before, strict=True):
        for _ in range(count):
            own = logits[row, :-1]
            order = np.lexsort((np.arange(len(own)), -own))[:64]
            kept = np.sort(order[own[order] >= own.max() - 8.0])
            bias = previous[last] @ next_[kept].T if last >= 0 else 0.0
            last = int(kept[(own[kept] + bias).argmax()])
            chosen.append(last)
            row += 1
    return chosen


@pytest.mark.parametrize(("vocabulary", "spread"), [(7, 2.0), (64, 2.0), (1000, 1.0), (1000, 6.0), (4099, 3.0)])
def test_choices_are_the_obvious_ones(vocabulary: int, spread: float) -> None:
    random = np.random.default_rng(vocabulary)
    counts, before = [3, 1, 0, 6, 2], [-1, 4, 2, 0, -1]
    logits = random.normal(0, spread, (sum(counts), vocabulary + 1)).astype(np.float32)
    previous, next_ = (random.normal(0, 1.0, (vocabulary, 8)).astype(np.float32) for _ in range(2))
    chosen, survival = choose(logits, counts, before, previous, next_)
    assert chosen.tolist() == obvious(logits, counts, before, previous, next_)
    assert np.allclose(survival, 1 / (1 + np.exp(-logits[:, -1].astype(float))), atol=1e-6)
    assert chosen.tolist() != logits[:, :-1].argmax(axis=1).tolist(), "the bias decided somewhere"


def test_without_a_known_token_there_is_no_bias_and_ties_go_to_the_lowest_id() -> None:
    logits = np.zeros((2, 6), dtype=np.float32)
    logits[:, 3:5] = 1.0
    previous, next_ = np.ones((5, 2), dtype=np.float32), np.zeros((5, 2), dtype=np.float32)
    assert choose(logits, [2], [-1], previous, next_)[0].tolist() == [3, 3]
    next_[4] = 0.5
    assert choose(logits, [2], [-1], previous, next_)[0].tolist() == [3, 4]
    assert choose(logits, [2], [0], previous, next_)[0].tolist() == [4, 4]
    assert choose(logits, [1, 1], [-1, -1], previous, next_)[0].tolist() == [3, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_block_ends_before_a_row_that_is_not_finite(bad: float) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    logits[1, :-1] = bad
    markov = np.zeros((8, 1), dtype=np.float32)
    chosen, survival = choose(logits, [3, 2], [-1, 0], markov, markov)
    assert chosen[0] >= 0 and chosen[1:3].tolist() == [-1, -1] and (chosen[3:] >= 0).all()
    assert survival[1:3].tolist() == [0.0, 0.0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    logits, markov = np.zeros((2, 9), dtype=np.float32), np.zeros((8, 1), dtype=np.float32)
    with pytest.raises(ValueError, match="more rows"):
        choose(logits, [3], [0], markov, markov)
    with pytest.raises(ValueError, match="less than no rows"):
        choose(logits, [-1], [0], markov, markov)
    with pytest.raises(ValueError, match="Markov"):
        choose(logits, [1], [0], markov[:7], markov)
    with pytest.raises(ValueError, match="not in the draft vocabulary"):
        choose(logits, [1], [8], markov, markov)
    with pytest.raises(ValueError, match="for each block"):
        choose(logits, [1], [], markov, markov)
