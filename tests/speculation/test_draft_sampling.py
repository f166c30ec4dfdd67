"""From a drafter's logits to a distribution, and from that to a token."""

from __future__ import annotations

import numpy as np
import pytest
from draft_models import View

from paceline.sampling.params import SamplingParams
from paceline.sampling.random import Purpose, uniform
from paceline.sampling.truncation import Truncator
from paceline.speculation.draft_sampling import MAX_SUPPORT, draft_distribution, draw_independently, likeliest

VOCABULARY = 2000


def row(seed: int = 0, size: int = VOCABULARY) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 3.0, size).astype(np.float32)


def distribution(logits: np.ndarray, **params: float) -> tuple[np.ndarray, np.ndarray]:
    found = draft_distribution(logits, SamplingParams(**{"temperature": 1.0, **params}), Truncator(len(logits)))
    assert found is not None
    ids, probabilities = found
    assert (np.diff(ids) > 0).all() and probabilities.sum() == pytest.approx(1.0) and (probabilities >= 0.0).all()
    return ids, probabilities


def test_the_likeliest_token_comes_with_its_probability() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3], dtype=np.float32))
    assert likeliest(logits) == (1, pytest.approx(0.6))
    assert likeliest(np.array([2.0, 5.0, 5.0, 0.0], dtype=np.float32))[0] == 1, "the lowest id on ties"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_no_numbers_give_no_draft(bad: float) -> None:
    logits = row()
    logits[17] = bad
    assert likeliest(logits) is None
    assert draft_distribution(logits, SamplingParams(temperature=1.0), Truncator(VOCABULARY)) is None


@pytest.mark.parametrize("params", [{}, {"top_p": 0.999}, {"min_p": 1e-6}, {"top_k": 1500}], ids=str)
def test_no_distribution_is_larger_than_its_limit_and_it_keeps_the_likeliest(params: dict) -> None:
    logits = row()
    ids, probabilities = distribution(logits, temperature=2.0, **params)
    assert set(ids.tolist()) == set(np.argsort(-logits)[:MAX_SUPPORT].tolist())
    weights = np.exp(logits[ids] / 2.0, dtype=np.float64)
    np.testing.assert_allclose(probabilities, weights / weights.sum(), rtol=1e-5)


def test_small_supports_are_the_requests() -> None:
    logits = row()
    ids, _ = distribution(logits, top_k=7)
    assert set(ids.tolist()) == set(np.argsort(-logits)[:7].tolist())
    ids, probabilities = distribution(logits, temperature=1e-30)
    assert probabilities.max() == 1.0 and ids[probabilities.argmax()] == logits.argmax()


def test_masked_logits_have_no_probability() -> None:
    logits = np.full(300, -np.inf, dtype=np.float32)
    logits[[5, 80]] = 1.0
    ids, probabilities = distribution(logits)
    assert ids.tolist() == [5, 80] and probabilities.tolist() == [0.5, 0.5]


def test_a_draw_is_the_inverse_distribution_at_the_noise_of_its_step_and_place() -> None:
    ids, weights = np.array([3, 9, 40]), np.array([0.2, 0.5, 0.3])
    for length in range(1, 20):  # known tokens, which name the step
        view = View("r", [1] * length, SamplingParams(temperature=1.0, seed=77), index=2)
        for place in range(4):
            noise = uniform(77, 2, length, Purpose.DRAFT, place)
            expected = 3 if noise < 0.2 else 9 if noise < 0.7 else 40
            assert draw_independently(ids, weights, view, length + place) == expected
