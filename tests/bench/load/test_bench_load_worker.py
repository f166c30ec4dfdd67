"""The load generator, as a process, against scripted servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from paceline.bench.load.driver import PointRun, run_plan
from paceline.bench.load.metrics import max_in_flight, tpot, ttft
from paceline.bench.load.plan import Plan, PlannedRequest
from paceline.bench.load.worker import short


def request(at: float, text: str = "one two three", tokens: int = 4, **more: Any) -> PlannedRequest:
    body = {"model": "fake", "prompt": text, "max_tokens": tokens, "stream": True, **more}
    return PlannedRequest(at, "fake", "/v1/completions", body)


def chat(at: float, text: str, tokens: int) -> PlannedRequest:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": True}
    return PlannedRequest(at, "", "/v1/chat/completions", body)


def plan(port: int, requests: list[PlannedRequest], **more: Any) -> Plan:
    return Plan("127.0.0.1", port, requests=requests, **more)


def drive(plan: Plan, readings: list[dict[str, float]] | None = None, ended: str = "") -> PointRun:
    left = list(readings or [])

    async def counters() -> dict[str, float]:
        return left.pop(0) if left else {}

    return asyncio.run(run_plan(plan, counters, lambda: ended))


def test_an_open_loop_sends_at_its_times_whatever_became_of_earlier_requests(fake_server) -> None:
    port = fake_server(ttft=0.3, gap=0.01)
    run = drive(plan(port, [request(at) for at in (0.0, 0.1, 0.1, 0.2)]))
    assert [record.scheduled for record in run.records] == [0.0, 0.1, 0.1, 0.2]
    assert [record.index for record in run.records] == [0, 1, 2, 3]
    for record in run.records:
        assert record.error == "" and record.counted
        assert -0.005 <= record.late < 0.1
        assert record.connected is not None and record.sent <= record.connected <= record.arrivals[0]
        assert len(record.arrivals) == record.tokens == 4
        assert record.prompt_tokens == 3
        assert 0.3 <= ttft(record) < 0.6
        assert record.ended == record.arrivals[-1]
    assert max_in_flight(run.records) == 4  # none waited for another
    assert run.client is not None
    assert run.client.seconds >= 0.5 and 0 <= run.client.lag_p99 <= run.client.lag_max
    assert (run.client.unsent, run.client.stopped) == (0, "")


def test_a_closed_loop_keeps_so_many_requests_open(fake_server) -> None:
    port = fake_server(ttft=0.02)
    run = drive(plan(port, [request(0) for _ in range(12)], concurrency=3))
    assert len(run.records) == 12 and not any(record.error for record in run.records)
    assert max_in_flight(run.records) == 3
    assert all(record.late < 0.02 for record in run.records)  # a place sends when it is free


def test_a_closed_loop_sends_nothing_after_its_time_and_finishes_what_is_open(fake_server) -> None:
    port = fake_server(ttft=0.1)
    run = drive(plan(port, [request(0) for _ in range(1000)], concurrency=2, duration=0.35))
    assert 4 <= len(run.records) <= 10
    assert not any(record.error for record in run.records)
    assert all(record.sent < 0.36 for record in run.records)
    assert run.client is not None and run.client.unsent == 0  # the time was over: that is no fault


def test_chunks_of_several_tokens_are_chunks_for_itl_and_tokens_for_tpot(fake_server) -> None:
    port = fake_server(chunk=3, gap=0.05)
    (record,) = drive(plan(port, [chat(0.0, "a b", 9)])).records
    assert (record.tokens, len(record.arrivals), record.prompt_tokens) == (9, 3, 2)
    value = tpot(record)
    assert value is not None and 0.1 / 8 <= value < 0.2 / 8


def test_errors_are_told_with_the_servers_words_and_keep_what_came(fake_server) -> None:
    port = fake_server(fail="bad", cut="short", hang="slow")
    requests = [request(0, "bad"), request(0, "short"), request(0, "slow"), request(0, "fine"), request(0, model="no")]
    run = drive(plan(port, requests, timeout=0.5))
    assert [record.error for record in run.records] == [
        "status 500: I cannot",
        "connection closed in the middle of the response",
        "no end within 0.5 s",
        "",
        "status 404: no model no",
    ]
    assert [len(record.arrivals) for record in run.records] == [0, 2, 0, 4, 0]
    assert run.records[0].text == "" and run.records[3].text != ""


def test_what_is_open_after_the_drain_is_cut_off_as_an_error(fake_server) -> None:
    port = fake_server(hang="slow")
    started = time.perf_counter()
    run = drive(plan(port, [request(0, "slow"), request(0.1)], drain=0.4))
    assert time.perf_counter() - started < 10
    assert [record.error for record in run.records] == ["unfinished 0.4 s after the last arrival", ""]
    assert 0.45 < run.records[0].ended < 2


def test_a_server_without_usage_has_its_chunks_counted(fake_server) -> None:
    port = fake_server(usage=False, chunk=2)
    (record,) = drive(plan(port, [request(0, tokens=6)])).records
    assert (record.tokens, record.counted, record.prompt_tokens) == (3, False, 0)


def test_an_answer_that_is_no_stream_is_an_error(fake_server) -> None:
    (record,) = drive(plan(fake_server(stream=False), [request(0)])).records
    assert "not as a stream" in record.error


def test_an_answer_without_a_token_is_an_error(fake_server) -> None:
    (record,) = drive(plan(fake_server(tokens=0), [request(0)])).records
    assert record.error == "ended without a token"


def test_a_server_that_is_gone_ends_the_point(fake_server) -> None:
    port = fake_server(die_after=2)
    run = drive(plan(port, [request(at / 20) for at in range(200)]))
    assert [record.error for record in run.records[:2]] == ["", ""]
    assert all(record.error for record in run.records[2:])
    assert run.client is not None
    assert "10 connections in a row failed" in run.client.stopped
    assert run.client.unsent == 200 - len(run.records) > 100


def test_a_dead_process_ends_the_point_and_counters_are_read_around_it(fake_server) -> None:
    port = fake_server()
    readings = [{"drafts": 1.0}, {"drafts": 2.0}, {"drafts": 3.0}]
    run = drive(plan(port, [request(at) for at in (0.0, 60.0)]), readings, ended="its process ended")
    assert run.broken == "its process ended"
    assert [record.error for record in run.records] == [""]
    assert run.client is not None and (run.client.unsent, run.client.stopped) == (1, "stopped")
    assert run.before == {"drafts": 1.0} and run.after == {"drafts": 2.0}


def test_warm_up_is_not_recorded_but_its_error_is_known(fake_server) -> None:
    port = fake_server(fail="bad")
    run = drive(plan(port, [request(0)], warm_up=[request(0, "fine"), request(0, "bad")]))
    assert run.warm_up_error == "status 500: I cannot"
    assert [record.index for record in run.records] == [0]


def test_a_plan_in_a_file_is_run_without_anybody(fake_server, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(plan(fake_server(), [request(0)]).to_json())
    command = [sys.executable, "-m", "paceline.bench.load.worker", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    ready, record, client = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": True, "error": ""}
    assert record["tokens"] == 4
    assert set(client["client"]) == {"seconds", "lag_p99", "lag_max", "cores", "unsent", "stopped"}


def test_a_held_up_event_loop_is_noticed(fake_server) -> None:
    """The generator's own loop is blocked from inside, by whatever it writes to."""
    from paceline.bench.load.worker import LoadGenerator

    port = fake_server(gap=0.01)
    generator = LoadGenerator(plan(port, [request(at / 50) for at in range(10)]), lambda line: time.sleep(0.05))
    report = asyncio.run(generator.run())
    assert report.lag_p99 > 0.02


def test_the_generator_is_light() -> None:
    code = (
        "import sys, paceline.bench.load.worker; "
        "sys.exit(', '.join({'torch', 'numpy', 'transformers', 'pydantic'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"it imports {done.stderr}"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ('status 429: {"error": {"message": "queue full", "type": "x"}}', "status 429: queue full"),
        ('status 400: {"message": "too long"}', "status 400: too long"),
        ("status 502: <html>", "status 502: <html>"),
        ("x" * 1000, "x" * 200),
    ],
)
def test_errors_are_shortened_to_their_message(error: str, shown: str) -> None:
    assert short(error) == shown
