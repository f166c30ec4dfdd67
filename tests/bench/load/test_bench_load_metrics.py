"""Arithmetic over recorded streams whose answers are known."""

from __future__ import annotations

import pytest

from paceline.bench.load.metrics import (
    Goodput,
    GoodputError,
    distribution,
    dollars_per_million,
    e2e,
    gaps,
    max_in_flight,
    point_metrics,
    tpot,
    ttft,
)
from paceline.bench.load.records import RequestRecord, text_hash


def record(sent: float, arrivals: list[float], tokens: int, error: str = "", **more: object) -> RequestRecord:
    ended = arrivals[-1] if arrivals else sent
    values: dict = {"scheduled": sent, "prompt_tokens": 100, "counted": True, "ended": ended, "index": 0, "model": "m"}
    return RequestRecord(**(values | more), sent=sent, arrivals=arrivals, tokens=tokens, error=error)


#: Sent at 1.0; the first token after 0.5 s, then 3 chunks with 2 tokens each, 0.1 s apart: 7 tokens, E2E 0.8 s.
STREAM = record(1.0, [1.5, 1.6, 1.7, 1.8], 7)


def test_latencies_of_a_stream_whose_chunks_hold_several_tokens() -> None:
    assert ttft(STREAM) == pytest.approx(0.5)
    assert e2e(STREAM) == pytest.approx(0.8)
    assert tpot(STREAM) == pytest.approx(0.3 / 6)  # a token after the first one
    assert gaps(STREAM) == pytest.approx([0.1, 0.1, 0.1])  # a chunk after the first one


def test_an_answer_of_one_token_has_no_tpot_and_no_gap() -> None:
    one = record(0.0, [0.25], 1)
    assert tpot(one) is None
    assert gaps(one) == []
    metrics = point_metrics([one])
    assert metrics.tpot is None and metrics.itl is None
    assert metrics.ttft is not None and metrics.e2e is not None
    assert metrics.ttft.p50 == metrics.e2e.p50 == 0.25


def test_percentiles_lie_between_neighbours() -> None:
    found = distribution([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert found.p50 == pytest.approx(2.5)
    assert found.p90 == pytest.approx(3.7)  # position 2.7 of 0..3
    assert found.p95 == pytest.approx(3.85)
    assert found.p99 == pytest.approx(3.97)
    assert (found.mean, found.low, found.high, found.count) == (2.5, 1.0, 4.0, 4)
    assert found.at(95) == found.p95
    assert distribution([]) is None


def test_rates_are_over_first_send_to_last_answer_and_errors_stand_apart() -> None:
    records = [
        record(0.0, [0.5, 1.0], 10),
        record(1.0, [1.5, 4.0], 30),
        record(0.5, [0.6], 1, error="status 500: no", ended=9.0),
        record(2.0, [], 0, error="no connection: refused"),
    ]
    metrics = point_metrics(records)
    assert (metrics.requests, metrics.completed) == (4, 2)
    assert metrics.errors == {"status 500: no": 1, "no connection: refused": 1}
    assert metrics.seconds == pytest.approx(4.0)
    assert metrics.output_rate == pytest.approx(10.0)
    assert metrics.token_rate == pytest.approx((40 + 200) / 4)
    assert metrics.request_rate == pytest.approx(0.5)
    assert (metrics.prompt_tokens, metrics.output_tokens) == (100, 20)
    assert metrics.ttft is not None and metrics.ttft.count == 2


def test_a_point_without_an_answer_has_no_latency_and_no_rate() -> None:
    metrics = point_metrics([record(0.0, [], 0, error="status 500")], Goodput(ttft=1.0))
    assert metrics.ttft is metrics.tpot is metrics.itl is metrics.e2e is None
    assert (metrics.output_rate, metrics.request_rate, metrics.goodput) == (0.0, 0.0, 0.0)
    assert point_metrics([]).requests == 0


def test_goodput_is_a_share_of_all_requests() -> None:
    target = Goodput.parse("ttft:500, tpot:50")
    assert (target.ttft, target.tpot, target.e2e) == (0.5, 0.05, None)
    records = [
        record(0.0, [0.5, 0.7], 5),  # exactly at the limit of TTFT, TPOT 50 ms
        record(0.0, [0.6, 0.7], 5),  # TTFT missed
        record(0.0, [0.1, 0.4], 5),  # TPOT 75 ms missed
        record(0.0, [0.2], 1),  # one token: no TPOT to miss
        record(0.0, [0.1, 0.2], 5, error="cut"),  # an error is missed however fast
    ]
    assert [target.met(one) for one in records] == [True, False, False, True, False]
    assert target.share(records) == pytest.approx(2 / 5)
    assert target.share(records, unsent=3) == pytest.approx(2 / 8)
    assert target.share([]) is None
    assert str(target) == "TTFT <= 500 ms, TPOT <= 50 ms"


@pytest.mark.parametrize("text", ["", "ttft", "ttft=500", "ttft:fast", "ttft:0", "tokens:5", "ttft:500;tpot:50"])
def test_a_latency_target_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(GoodputError, match="ttft:500,tpot:50"):
        Goodput.parse(text)


def test_most_in_flight_counts_open_requests() -> None:
    spans = [(0.0, 4.0), (1.0, 2.0), (1.5, 3.0), (2.0, 5.0), (6.0, 7.0)]
    assert max_in_flight(record(begin, [end], 1) for begin, end in spans) == 3
    assert max_in_flight([]) == 0


def test_a_late_client_is_measured_on_all_requests() -> None:
    records = [record(1.0 + late, [2.0], 1, scheduled=1.0) for late in (0.0, 0.01, 0.02)]
    records.append(record(1.03, [], 0, error="status 500", scheduled=1.0))
    late = point_metrics(records).late
    assert late is not None
    assert (late.p50, late.high) == (pytest.approx(0.015), pytest.approx(0.03))


def test_answers_without_usage_are_counted() -> None:
    assert point_metrics([record(0.0, [1.0], 1, counted=False), record(0.0, [1.0], 1)]).uncounted == 1


def test_dollars_for_a_million_tokens() -> None:
    assert dollars_per_million(3.6, 1000.0) == pytest.approx(1.0)
    assert dollars_per_million(3.6, 0.0) is None


def test_a_record_is_a_line_and_comes_back() -> None:
    line = record(1.23456789, [1.5, 1.61803399], 2, text=text_hash("a")).line()
    assert "\n" not in line and "1.618034" in line and "1.234568" in line
    assert text_hash("a") != text_hash("b") and text_hash("") == ""
