"""Points over repeats, who is fastest where, and the marks that say that a figure should not be quoted."""

from __future__ import annotations

import pytest

from paceline.bench.load.counters import ServerReport
from paceline.bench.load.driver import PointRun
from paceline.bench.load.loads import Load
from paceline.bench.load.metrics import Goodput, point_metrics
from paceline.bench.load.points import OperatingPoint, Point, lateness, make_point, operating_points, spread
from paceline.bench.load.records import ClientReport, RequestRecord
from paceline.bench.load.shares import latency_ratio, latency_values, same_texts, shares

CLIENT = ClientReport(seconds=10.0, lag_p99=0.001, lag_max=0.002, cores=0.1)
FOUR = Load("rate", 4.0)


def records(latencies: list[float], errors: int = 0, late: float = 0.0) -> list[RequestRecord]:
    good = [
        RequestRecord(i, "m", 0.0, late, late, [late + value, late + 2 * value], late + 2 * value, 10, 5, True)
        for i, value in enumerate(latencies)
    ]
    return good + [RequestRecord(-i, "m", 0.0, late, ended=1.0, error="status 500") for i in range(1, errors + 1)]


def point(target: str, latencies: list[float], repeat: int = 0, load: Load = FOUR, **more) -> Point:
    errors, texts = more.pop("errors", 0), more.pop("texts", {})
    workload = more.pop("workload", "ner")
    metrics = point_metrics(records(latencies, errors), Goodput(ttft=0.5))
    return Point(target, workload, load, repeat, metrics, CLIENT, ServerReport(), texts, **more)


def test_a_spread_is_the_median_with_its_extremes() -> None:
    found = spread([3.0, None, 1.0, 2.0])
    assert found is not None and (found.median, found.low, found.high) == (2.0, 1.0, 3.0)
    assert spread([None]) is None


def test_repeats_of_a_point_stand_together_and_broken_ones_are_left_out() -> None:
    points = [point("a", [0.1], 0), point("b", [0.4], 0), point("a", [0.3], 1), point("a", [9.0], 2, problem="died")]
    found = operating_points(points)
    assert [(entry.target, len(entry.points)) for entry in found] == [("a", 2), ("b", 1)]
    ttft = found[0].latency("ttft", 50)
    assert ttft is not None
    assert (ttft.median, ttft.low, ttft.high) == pytest.approx((0.2, 0.1, 0.3))
    assert found[0].valid


def test_percentiles_are_taken_in_each_repeat_and_then_over_repeats() -> None:
    (found,) = operating_points([point("a", [0.1, 0.2], 0), point("a", [1.0, 2.0], 1), point("a", [0.1, 0.3], 2)])
    p95 = found.latency("ttft", 95)
    assert p95 is not None and p95.median == pytest.approx(0.29)  # of 0.195, 1.95 and 0.29


def test_failed_requests_are_those_never_sent_too() -> None:
    run = PointRun(records([0.1, 0.2], errors=1), ClientReport(1, 0, 0, 0, unsent=2, stopped="gone"))
    made = make_point("a", "ner", FOUR, 0, run, Goodput(ttft=0.5), 0.01)
    assert made.problem == "gone"
    assert made.metrics.goodput == pytest.approx(2 / 5)
    entry = OperatingPoint("a", "ner", FOUR, [made])
    assert (entry.requests, entry.failed) == (5, 3)


def test_a_late_client_is_told_by_its_requests_or_its_loop() -> None:
    assert lateness(records([0.1] * 100), CLIENT, 0.01) == ""
    assert "15.0 ms late at P99 (limit 10 ms)" in lateness(records([0.1] * 100, late=0.015), CLIENT, 0.01)
    assert lateness(records([0.1] * 100, late=0.015), CLIENT, 0.02) == ""
    held_up = ClientReport(1.0, lag_p99=0.03, lag_max=0.05, cores=1.0)
    assert "held up for 30.0 ms at P99" in lateness(records([0.1]), held_up, 0.01)
    assert lateness([], CLIENT, 0.01) == ""


def test_one_late_request_of_many_is_no_late_client() -> None:
    some = records([0.1] * 199) + records([0.1], late=0.5)
    assert lateness(some, CLIENT, 0.01) == ""


def test_a_server_is_saturated_when_it_is_behind_and_slow() -> None:
    slow_and_behind = point("a", [11.0] * 20)  # 20 answers in 22 s at 4 requests/s
    assert slow_and_behind.saturated
    assert not point("a", [9.0] * 20).saturated  # behind, but not that slow yet
    assert not point("a", [11.0] * 200).saturated  # slow, but not behind
    assert not point("a", [11.0] * 20, load=Load("concurrency", 4)).saturated
    assert not point("a", [], errors=3).saturated


def test_the_lowest_latency_wins_a_point_and_ties_count_for_both() -> None:
    found = shares(
        [
            {"a": 1.0, "b": 2.0},
            {"a": 3.0, "b": None},
            {"a": 2.0, "b": 2.0},
            {"a": None, "b": None},
            {"a": 9.0, "b": 1.0},
        ],
        ["a", "b"],
    )
    assert (found["a"].won, found["a"].points, found["a"].share) == (3, 4, 0.75)
    assert (found["b"].won, found["b"].share) == (2, 0.5)
    assert shares([], ["a"])["a"].share is None


def test_values_leave_out_late_points_and_targets_with_errors() -> None:
    eight = Load("rate", 8.0)
    measured = operating_points([
        point("a", [0.1]), point("b", [0.2]),
        point("a", [0.1], load=eight, late="by 20 ms"), point("b", [0.2], load=eight),
        point("a", [0.1] * 99, errors=1, workload="qa"), point("b", [0.2] * 90, errors=10, workload="qa"),
        point("b", [0.2], workload="preference"),
    ])  # fmt: skip
    assert latency_values(measured, ["a", "b"], "ttft", 50) == [
        {"a": pytest.approx(0.1), "b": pytest.approx(0.2)},
        {"a": pytest.approx(0.1), "b": None},  # a tenth of b's requests failed
        {"a": None, "b": pytest.approx(0.2)},  # a was not measured there
    ]


def test_ratios_are_of_medians_with_the_spread_of_repeats() -> None:
    reference = OperatingPoint("a", "ner", FOUR, [point("a", [value], i) for i, value in enumerate([0.1, 0.2, 0.4])])
    other = OperatingPoint("b", "ner", FOUR, [point("b", [value], i) for i, value in enumerate([0.2, 0.3, 0.4])])
    ratio = latency_ratio(other, reference, "ttft", 50)
    assert ratio is not None
    assert ratio.median == pytest.approx(1.5)
    assert (ratio.q1, ratio.q3, ratio.count) == (pytest.approx(1.25), pytest.approx(1.75), 3)  # of 2, 1.5 and 1
    empty = OperatingPoint("c", "ner", FOUR, [point("c", [], 0, errors=1)])
    assert latency_ratio(empty, reference, "ttft", 50) is None


def test_texts_are_compared_request_by_request() -> None:
    one = OperatingPoint("a", "ner", FOUR, [point("a", [1.0], 0, texts={0: "x", 1: "y", 2: "z"})])
    other = OperatingPoint("b", "ner", FOUR, [point("b", [1.0], 0, texts={0: "x", 1: "other", 3: "w"})])
    assert same_texts(other, one) == pytest.approx(1 / 2)
    assert same_texts(other, OperatingPoint("c", "ner", FOUR, [point("c", [1.0], 1, texts={0: "x"})])) is None
