"""Cost curves: what they say between and beyond measured points, and how they follow a machine that changes."""

from __future__ import annotations

import itertools
import random
import timeit
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speculation_shapes import CPU_POINTS, H200_POINTS, cpu_seconds, h200_seconds

from paceline.speculation.costs import TABLE_ROWS, ContextCosts, DraftCosts, StepCosts, isotonic


class TestCurve:
    def test_it_goes_through_what_was_measured_and_straight_between(self) -> None:
        costs = StepCosts([(4, 5e-3), (1, 4e-3), (8, 9e-3)])
        assert [costs.seconds(r) for r in (1, 4, 6, 8)] == pytest.approx([4e-3, 5e-3, 7e-3, 9e-3])

    def test_no_rows_cost_nothing(self) -> None:
        assert StepCosts(CPU_POINTS).seconds(0) == 0.0

    def test_fewer_rows_than_measured_cost_as_much_as_the_fewest_measured(self) -> None:
        assert StepCosts([(8, 5e-3), (16, 7e-3)]).seconds(2) == pytest.approx(5e-3)

    @pytest.mark.parametrize("rows", [600, 1024, 4096])
    def test_beyond_the_last_point_it_goes_on_with_the_slope_of_the_upper_half(self, rows: int) -> None:
        assert StepCosts(H200_POINTS).seconds(rows) == pytest.approx(h200_seconds(rows), rel=0.02)
        assert StepCosts(CPU_POINTS).seconds(rows) == pytest.approx(cpu_seconds(rows), rel=0.02)

    def test_a_single_measured_count_is_taken_for_proportional_growth(self) -> None:
        assert StepCosts([(4, 8e-3)]).seconds(6) == pytest.approx(12e-3)

    def test_a_measured_dip_is_levelled(self) -> None:
        costs = StepCosts([(1, 4e-3), (2, 6e-3), (3, 5e-3), (4, 7e-3)])
        assert [costs.seconds(r) for r in (1, 2, 3, 4)] == pytest.approx([4e-3, 5.5e-3, 5.5e-3, 7e-3])

    @pytest.mark.parametrize("last", [64, TABLE_ROWS, 3 * TABLE_ROWS])
    def test_a_span_is_seconds_of_each_count(self, last: int) -> None:
        costs = StepCosts([(1, 4e-3), (last, 90e-3)])
        for start in (1, last - 5, TABLE_ROWS - 3, TABLE_ROWS + 7):
            assert costs.span(start, 9) == [costs.seconds(r) for r in range(start, start + 10)]

    @pytest.mark.parametrize(
        ("measured", "complaint"),
        [([], "at least one"), ([(0, 1e-3)], "rows >= 1"), ([(1, 0.0)], "positive"), ([(1, float("nan"))], "finite")],
    )
    def test_senseless_measurements_are_refused(self, measured: list[tuple[int, float]], complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            StepCosts(measured)

    @pytest.mark.parametrize("step", [(0, 1e-3), (3, 0.0), (3, float("inf")), (3, -1.0)])
    def test_senseless_steps_are_refused(self, step: tuple[int, float]) -> None:
        with pytest.raises(ValueError, match="a step has rows"):
            StepCosts(CPU_POINTS).observe(*step)


def noisy(rng: random.Random, seconds: float) -> float:
    """A real step: 15% of noise, mostly upwards, and now and then the process is descheduled."""
    return seconds * rng.choice([0.9, 0.95, 1.0, 1.0, 1.05, 1.3]) * (10 if rng.random() < 0.02 else 1)


class TestRealSteps:
    def test_one_descheduled_step_hardly_matters(self) -> None:
        costs = StepCosts(CPU_POINTS)
        for _ in range(40):
            costs.observe(4, cpu_seconds(4))
        before = costs.seconds(4)
        costs.observe(4, 10 * cpu_seconds(4))
        for _ in range(40):
            costs.observe(4, cpu_seconds(4))
        assert costs.seconds(4) == pytest.approx(before, rel=0.01)

    @pytest.mark.parametrize("points", [CPU_POINTS, H200_POINTS], ids=["cpu", "h200"])
    def test_noise_and_outliers_leave_the_curve_where_it_is(self, points: list[tuple[int, float]]) -> None:
        rng, costs, truth = random.Random(1), StepCosts(points), StepCosts(points)
        for _ in range(3000):
            rows = rng.choice([1, 3, 5, 9, 14, 30, 90])
            costs.observe(rows, noisy(rng, truth.seconds(rows)))
        for rows in (1, 2, 4, 8, 16, 64, 256):
            assert costs.seconds(rows) == pytest.approx(truth.seconds(rows), rel=0.06)

    @pytest.mark.parametrize("factor", [0.8, 1.2, 1.5])
    def test_a_machine_that_changes_speed_is_followed_at_all_counts(self, factor: float) -> None:
        rng, costs = random.Random(2), StepCosts(CPU_POINTS)
        for _ in range(250):
            rows = rng.choice([1, 4, 6])
            costs.observe(rows, noisy(rng, factor * cpu_seconds(rows)))
        for rows in (1, 4, 6):
            assert costs.seconds(rows) == pytest.approx(factor * cpu_seconds(rows), rel=0.05)
        for rows in (16, 64, 256):  # never seen: most of the change is taken for the machine's
            assert costs.seconds(rows) == pytest.approx(factor * cpu_seconds(rows), rel=0.10)

    def test_a_part_of_the_curve_that_changes_is_followed_alone(self) -> None:
        rng, costs = random.Random(3), StepCosts(CPU_POINTS)
        for _ in range(3000):
            rows = rng.choice([1, 2, 4, 16, 24, 32])
            costs.observe(rows, noisy(rng, cpu_seconds(rows) * (1.3 if rows >= 16 else 1.0)))
        for rows in (1, 2, 4):
            assert costs.seconds(rows) == pytest.approx(cpu_seconds(rows), rel=0.06)
        for rows in (16, 24, 32):
            assert costs.seconds(rows) == pytest.approx(1.3 * cpu_seconds(rows), rel=0.06)

    def test_a_wrong_start_is_unlearned(self) -> None:
        rng, costs = random.Random(4), StepCosts([(1, 4e-3), (8, 20e-3), (64, 44e-3)])
        for _ in range(2000):
            rows = rng.choice([1, 8, 64])
            costs.observe(rows, noisy(rng, cpu_seconds(rows)))
        for rows in (1, 8, 64):
            assert costs.seconds(rows) == pytest.approx(cpu_seconds(rows), rel=0.1)

    @settings(max_examples=40)
    @given(st.lists(st.tuples(st.integers(1, 900), st.floats(1e-5, 10.0)), max_size=200))
    def test_it_never_decreases_whatever_is_seen(self, steps: list[tuple[int, float]]) -> None:
        costs = StepCosts(CPU_POINTS)
        for step in steps:
            costs.observe(*step)
        seconds = costs.span(0, 700)
        assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(seconds))

    def test_its_points_start_another_curve(self) -> None:
        costs = StepCosts(CPU_POINTS)
        for _ in range(320):
            costs.observe(4, 2 * cpu_seconds(4))
        assert StepCosts(costs.points).span(1, 100) == pytest.approx(costs.span(1, 100), rel=0.01)

    def test_a_step_is_noted_in_a_thousandth_of_its_time(self) -> None:
        costs = StepCosts(CPU_POINTS)
        taken = min(timeit.repeat(lambda: costs.observe(9, 8e-3), number=320, repeat=10)) / 320
        assert taken < 8e-6, f"{taken * 1e6:.1f} us"


class TestDraftCosts:
    @pytest.mark.parametrize(
        "truth",
        [
            lambda s, n: n * (4e-4 + 2e-5 * s),  # a pass a token
            lambda s, n: 1.1e-3 + 4e-5 * s,  # one pass for the block
            lambda s, n: 3e-4 + 6e-6 * s * n,
        ],
        ids=["a pass a token", "a pass a block", "rows"],
    )
    def test_a_handful_of_observations_gives_the_whole_surface(self, truth: Callable[[int, int], float]) -> None:
        rng = random.Random(5)
        costs = DraftCosts([(s, n, truth(s, n)) for s, n in [(1, 4), (1, 8), (4, 4), (8, 2)]])
        for _ in range(40):
            s, n = rng.choice([1, 2, 4, 8]), rng.choice([2, 3, 5, 8])
            costs.observe(s, n, noisy(rng, truth(s, n)))
        for s, n in [(1, 3), (1, 6), (3, 4), (8, 8), (16, 5)]:
            assert costs.seconds(s, n) == pytest.approx(truth(s, n), rel=0.2)

    def test_the_first_observation_is_believed(self) -> None:
        assert DraftCosts([(2, 5, 3e-3)]).seconds(2, 5) == pytest.approx(3e-3)

    def test_a_stall_at_the_start_is_soon_forgotten(self) -> None:
        costs = DraftCosts([(1, 4, 50e-3)])
        for _ in range(10):
            costs.observe(1, 4, 1e-3)
        assert costs.seconds(1, 4) == pytest.approx(1e-3, rel=0.1)

    def test_a_change_is_followed(self) -> None:
        costs = DraftCosts([(1, 4, 1e-3)])
        for _ in range(150):
            costs.observe(1, 4, 1.3e-3)
        assert costs.seconds(1, 4) == pytest.approx(1.3e-3, rel=0.05)

    @given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 63), st.floats(1e-5, 1.0)), min_size=1, max_size=30))
    def test_more_never_costs_less_and_always_something(self, seen: list[tuple[int, int, float]]) -> None:
        costs = DraftCosts(seen)
        assert costs.seconds(1, 1) >= 0
        for s, n in [(1, 1), (4, 2), (16, 8)]:
            assert costs.seconds(s, n) <= costs.seconds(s + 1, n) + 1e-12
            assert costs.seconds(s, n) <= costs.seconds(s, n + 1) + 1e-12
        s, n, _ = seen[-1]
        assert costs.seconds(s, n) > 0

    def test_nothing_to_propose_costs_nothing(self) -> None:
        assert DraftCosts([(1, 4, 1e-3)]).seconds(0, 4) == 0.0

    def test_senseless_measurements_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            DraftCosts([])
        with pytest.raises(ValueError, match="length >= 1"):
            DraftCosts([(1, 0, 1e-3)])


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12))
def test_isotonic_regression_has_the_least_squared_distance(values: list[float]) -> None:
    fitted = np.array(isotonic(values, [1.0] * len(values)))
    assert np.all(np.diff(fitted) >= -1e-12)
    # max-min formula of isotonic regression
    expected = [
        max(min(np.mean(values[a : b + 1]) for b in range(i, len(values))) for a in range(i + 1))
        for i in range(len(values))
    ]
    assert fitted == pytest.approx(expected, abs=1e-9)


class TestContexts:
    COSTS = ContextCosts(key=1e-6, key_row=5e-7, known=16)

    def test_keys_are_read_once_a_sequence_and_compared_with_every_row(self) -> None:
        costs = StepCosts(CPU_POINTS, self.COSTS)
        assert costs.attention(1016) == pytest.approx(1000 * 1.5e-6)
        assert costs.attention(1016, 5) == pytest.approx(1000 * 3.5e-6)
        assert costs.row_attention(1016) == pytest.approx(1000 * 5e-7)

    def test_what_the_curve_was_measured_behind_costs_nothing_more(self) -> None:
        assert StepCosts(CPU_POINTS, self.COSTS).attention(10, 8) == 0.0
        assert StepCosts(CPU_POINTS).attention(1000, 8) == 0.0

    def test_a_layer_sees_no_more_than_its_window(self) -> None:
        costs = StepCosts(CPU_POINTS, ContextCosts(key_row=1e-6, windows=(0, 100, 100, 100)))
        assert costs.row_attention(1000) == pytest.approx((1000 + 3 * 100) / 4 * 1e-6)
        assert costs.row_attention(50) == pytest.approx(50e-6)

    def test_long_contexts_do_not_change_what_a_row_is_thought_to_cost(self) -> None:
        costs = StepCosts(CPU_POINTS, self.COSTS)
        before = costs.span(1, 32)
        for _ in range(400):
            costs.observe(4, costs.seconds(4) + costs.attention(1500, 4), costs.attention(1500, 4))
        assert costs.span(1, 32) == pytest.approx(before, rel=1e-6)

    def test_they_follow_the_speed_of_the_machine(self) -> None:
        costs, slow = StepCosts(CPU_POINTS, self.COSTS, logits=1e-4), 2.0
        expected, logits = slow * costs.attention(1016), slow * costs.logits
        truth = StepCosts([(rows, slow * seconds) for rows, seconds in CPU_POINTS])
        for step in range(1200):
            rows = 1 + step % 32
            costs.observe(rows, truth.seconds(rows) + expected, costs.attention(1016))
        assert costs.attention(1016) == pytest.approx(expected, rel=0.1)
        assert costs.logits == pytest.approx(logits, rel=0.1)
