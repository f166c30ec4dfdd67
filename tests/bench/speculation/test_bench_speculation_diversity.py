"""Choosing prompts that differ, against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from paceline.bench.speculation.speed_bench.diversity import choose_diverse, summed_similarity
from paceline.bench.speculation.speed_bench.embeddings import NgramVectors, Vectors, unit_length


def random_vectors(seed: int, count: int, dimensions: int = 4) -> Vectors:
    return unit_length(np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32))


def least(vectors: Vectors, count: int) -> float:
    return min(summed_similarity(vectors, list(chosen)) for chosen in combinations(range(len(vectors)), count))


def test_the_sum_is_over_pairs_and_leaves_out_each_with_itself() -> None:
    vectors = unit_length(np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], dtype=np.float32))
    assert summed_similarity(vectors, [0, 1]) == pytest.approx(1.0)
    assert summed_similarity(vectors, [0, 1, 2]) == pytest.approx(1.0)
    assert summed_similarity(vectors, [0, 1, 3]) == pytest.approx(1.0 - 2.0)
    assert summed_similarity(vectors, [2]) == summed_similarity(vectors, []) == 0.0


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_choice_is_the_best_or_within_a_hair_of_it(count: int) -> None:
    best = close = 0
    for seed in range(40):
        vectors = random_vectors(seed, 9)
        found, optimum = summed_similarity(vectors, choose_diverse(vectors, count)), least(vectors, count)
        assert found >= optimum - 1e-6
        best += found <= optimum + 1e-5
        close += found <= optimum + 0.1 * count
    assert best >= 30 and close >= 38


def test_no_single_swap_improves_the_choice() -> None:
    vectors = random_vectors(7, 60, 8)
    chosen = choose_diverse(vectors, 15)
    found = summed_similarity(vectors, chosen)
    for out in chosen:
        rest = [i for i in chosen if i != out]
        for other in set(range(60)) - set(chosen):
            assert summed_similarity(vectors, [*rest, other]) >= found - 1e-5


def test_of_groups_of_alike_texts_each_is_chosen_once() -> None:
    centres = np.eye(5, dtype=np.float32)
    noise = np.random.default_rng(3).normal(scale=0.02, size=(50, 5)).astype(np.float32)
    vectors = unit_length(np.repeat(centres, 10, axis=0) + noise)
    assert sorted(i // 10 for i in choose_diverse(vectors, 5)) == [0, 1, 2, 3, 4]


def test_the_first_of_the_chosen_are_diverse_themselves() -> None:
    vectors = random_vectors(11, 40, 6)
    chosen = choose_diverse(vectors, 20)
    first = summed_similarity(vectors, chosen[:5])
    others = [summed_similarity(vectors, chosen[i : i + 5]) for i in (5, 10, 15)]
    assert first < min(others)


def test_each_is_chosen_once_the_same_every_time_and_all_when_there_are_too_few() -> None:
    vectors = random_vectors(5, 12)
    chosen = choose_diverse(vectors, 6)
    assert len(set(chosen)) == 6 and chosen == choose_diverse(vectors, 6)
    assert sorted(choose_diverse(vectors, 99)) == list(range(12))
    assert choose_diverse(vectors[:1], 3) == [0]
    same = unit_length(np.ones((6, 3), dtype=np.float32))
    assert len(set(choose_diverse(same, 4))) == 4


def test_ngram_vectors_know_which_texts_are_alike() -> None:
    texts = [
        "Write a Python function that sorts a list of numbers.",
        "Write a Python function that sorts a list of words.",
        "Who painted the Mona Lisa, and in which century?",
    ]
    done: list[int] = []
    vectors = NgramVectors("for the test").embed(texts, done.append)
    similarity = vectors @ vectors.T
    assert done == [1, 2, 3]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    assert similarity[0, 1] > 0.5 > similarity[0, 2]


def test_an_empty_text_has_a_vector_of_zeros_and_is_like_nothing() -> None:
    vectors = NgramVectors("").embed(["", "some text"], lambda _: None)
    assert not vectors[0].any() and np.isfinite(vectors).all()
