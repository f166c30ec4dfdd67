"""Medians, quartiles and ratios."""

from __future__ import annotations

import pytest

from paceline.bench.statistics import compare, quantile, summarize


def test_quantile_interpolates_between_neighbours() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.25) == 2.0
    assert quantile([7.0], 0.75) == 7.0


def test_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        quantile([], 0.5)


def test_one_outlier_moves_neither_median_nor_quartiles() -> None:
    calm = summarize([10.0, 10.1, 9.9, 10.0, 10.0, 10.1, 9.9, 10.0, 10.0])
    wild = summarize([10.0, 10.1, 9.9, 10.0, 10.0, 10.1, 9.9, 10.0, 900.0])
    assert wild.median == calm.median == 10.0
    assert wild.spread < 0.02


def test_drift_of_the_machine_cancels_in_the_ratio_of_a_round() -> None:
    drift = [1.0, 0.9, 0.8, 0.7, 0.6]
    ratio = compare([30.0 * d for d in drift], [10.0 * d for d in drift])
    assert ratio.median == ratio.q1 == ratio.q3 == pytest.approx(3.0)


def test_ratio_is_of_medians_not_median_of_ratios() -> None:
    assert compare([1.0, 2.0, 9.0], [1.0, 4.0, 5.0]).median == 0.5


def test_ratio_uses_only_rounds_that_both_have() -> None:
    assert compare([2.0, 4.0, 6.0], [1.0, 2.0]).count == 2


def test_ratio_to_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="not zero"):
        compare([1.0], [0.0])
