"""Intervals against published and hand-calculated values."""

from __future__ import annotations

import pytest

from paceline.bench.quality.intervals import bootstrap, bootstrap_change, wilson
from paceline.bench.quality.tasks import Counts

RIGHT, WRONG = Counts(1, 1, 1), Counts(0, 1, 1)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(right, of, low, high):
    assert wilson(right, of) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_needs_questions():
    for interval in (lambda: wilson(0, 0), lambda: bootstrap([])):
        with pytest.raises(ValueError, match="at least one question"):
            interval()


def test_the_bootstrap_of_a_share_is_near_its_normal_interval():
    low, high = bootstrap([RIGHT] * 120 + [WRONG] * 80)
    half = 1.96 * (0.6 * 0.4 / 200) ** 0.5
    assert (low, high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.012)


def test_the_same_answers_have_the_same_interval_twice():
    counts = [Counts(i % 3, 3, 2) for i in range(30)]
    assert bootstrap(counts) == bootstrap(counts)


def test_a_change_of_no_answer_is_exactly_nothing():
    counts = [RIGHT, WRONG] * 25
    assert bootstrap_change(counts, counts) == (0.0, 0.0)


def test_a_change_is_paired_by_question():
    before = [RIGHT, WRONG] * 50
    after = [RIGHT] * 100  # every wrong one became right: what is unsure is only how many wrong ones there are
    low, high = bootstrap_change(after, before)
    assert 0.38 < low < 0.5 < high < 0.62
    with pytest.raises(ValueError, match="cannot be compared"):
        bootstrap_change(after, before[:-1])
