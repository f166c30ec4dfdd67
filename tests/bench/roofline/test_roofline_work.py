"""Bounds of the roofline on numbers worked out by hand."""

from __future__ import annotations

import pytest

from paceline.bench.roofline.plots import Point, roofline_plot
from paceline.bench.roofline.work import Ceilings, Work

MACHINE = Ceilings(bandwidth=100.0, rates={"int8": 1000.0, "f32": 200.0})


def test_the_longer_of_reading_and_calculating_is_the_bound() -> None:
    small = Work(200.0, {"int8": 500.0})
    assert MACHINE.memory_seconds(small) == 2.0
    assert MACHINE.arithmetic_seconds(small) == 0.5
    assert (MACHINE.bound(small), MACHINE.binding(small)) == (2.0, "memory")
    large = Work(200.0, {"int8": 5000.0})
    assert (MACHINE.bound(large), MACHINE.binding(large)) == (5.0, "arithmetic")


def test_times_of_different_arithmetics_add_up() -> None:
    assert MACHINE.arithmetic_seconds(Work(0.0, {"int8": 500.0, "f32": 300.0})) == 2.0


def test_work_adds_up_by_arithmetic_and_multiplies() -> None:
    work = Work(10.0, {"int8": 4.0}) + Work(5.0, {"int8": 1.0, "f32": 2.0})
    assert work == Work(15.0, {"int8": 5.0, "f32": 2.0})
    assert work * 2 == Work(30.0, {"int8": 10.0, "f32": 4.0})
    assert work.total_ops == 7.0
    assert work.intensity == pytest.approx(7 / 15)
    assert Work(0.0, {"f32": 1.0}).intensity == float("inf")


def test_a_roof_rises_with_the_bandwidth_to_its_ridge_and_is_flat_behind_it() -> None:
    points = [
        Point("one row", Work(100.0, {"int8": 200.0}), 2.0),
        Point("many rows", Work(100.0, {"int8": 20_000.0}), 25.0),
    ]
    plot = roofline_plot(points, MACHINE)
    assert [series.name for series in plot.series] == ["one row", "many rows", "limit, int8"]
    assert [series.limit for series in plot.series] == [False, False, True]
    assert plot.series[0].x == [2.0] and plot.series[0].y == [pytest.approx(100e-9)]
    roof = plot.series[-1]
    assert roof.x == [1.0, 10.0, 400.0]  # half of the lowest intensity, the ridge 1000 / 100, twice the highest
    assert roof.y == pytest.approx([100e-9, 1000e-9, 1000e-9])


def test_a_ridge_outside_of_the_picture_does_not_widen_it() -> None:
    plot = roofline_plot([Point("one row", Work(100.0, {"int8": 200.0}), 2.0)], MACHINE)
    assert plot.series[-1].x == [1.0, 4.0]
    assert plot.series[-1].y == pytest.approx([100e-9, 400e-9])
