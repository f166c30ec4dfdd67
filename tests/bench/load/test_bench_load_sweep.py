"""Whole runs on scripted servers: turns, saturation, failures, and an end before the end."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence

import pytest
from load_servers import scripted_target

from paceline.bench.endpoint import Endpoint
from paceline.bench.load.compare_report import compare_report
from paceline.bench.load.loads import Load, LoadError
from paceline.bench.load.metrics import Goodput
from paceline.bench.load.scenarios import Texts, user
from paceline.bench.load.serve_report import serve_report
from paceline.bench.load.settings import Settings
from paceline.bench.load.sweep import Sweep
from paceline.bench.load.targets import LoadTarget
from paceline.bench.load.workloads import ScenarioWorkload, Shot
from paceline.bench.noise import NoiseGuard


class QuietGuard(NoiseGuard):
    """Takes no time."""

    def sample(self) -> None:
        pass


def workload(settings: Settings, loads: Sequence[Load], adapters: Sequence[str] = ("",)) -> ScenarioWorkload:
    texts = Texts("here", [user(f"prompt {number}") for number in range(400)])
    return ScenarioWorkload("ner", "a test", texts, None, 6, adapters, loads, settings)


def owned(name: str, **options: object) -> LoadTarget:
    return LoadTarget(name, server=scripted_target(name, **options))


def remote(port: int, name: str = "remote", **more: object) -> LoadTarget:
    return LoadTarget(name, Endpoint("http", "127.0.0.1", port, timeout=10), **more)


def sweep(targets: list[LoadTarget], settings: Settings, loads: Sequence[Load], **more: object) -> Sweep:
    workloads = [workload(settings, loads, **more)]  # type: ignore[arg-type]
    return Sweep(targets, workloads, settings, guard=QuietGuard())


def run(made: Sweep) -> Sweep:
    asyncio.run(made.run())
    return made


PATIENT = 60.0  # seconds that the client may be late: a test machine may be busy
FAST = Settings(repeats=1, duration=None, requests=6, warm_ups=1, late_limit=PATIENT)


def test_targets_take_turns_and_get_the_same_requests() -> None:
    raw = io.StringIO()
    settings = Settings(repeats=2, duration=None, requests=4)
    made = sweep([owned("a"), owned("b", gap=0.02)], settings, [Load("rate", 50), Load("rate", 60)])
    made.raw = raw
    run(made)
    order = [(point.repeat, str(point.load), point.target) for point in made.points]
    assert order == [
        (0, "50 req/s", "a"), (0, "50 req/s", "b"), (0, "60 req/s", "b"), (0, "60 req/s", "a"),
        (1, "50 req/s", "b"), (1, "50 req/s", "a"), (1, "60 req/s", "a"), (1, "60 req/s", "b"),
    ]  # fmt: skip
    texts = {(p.repeat, str(p.load), p.target): p.texts for p in made.points}
    assert all(texts[repeat, load, "a"] == texts[repeat, load, "b"] for repeat, load, _ in texts)
    assert len({tuple(hashes.values()) for hashes in texts.values()}) == 4  # no prompt twice
    times: dict[tuple, list[float]] = {}
    for record in map(json.loads, raw.getvalue().splitlines()):
        key = record["repeat"], record["load"], record["target"]
        times.setdefault(key, []).append(record["scheduled"])
    assert len(times) == 8 and all(times[repeat, load, "a"] == times[repeat, load, "b"] for repeat, load, _ in times)
    for target in made.targets:
        assert target.server is not None and target.server.tree is None  # none is left behind


def test_a_comparison_says_who_is_fastest_where() -> None:
    made = run(sweep([owned("slow", ttft=0.2, gap=0.1), owned("fast", ttft=0.01)], FAST, [Load("concurrency", 2)]))
    report = compare_report(made, "command")
    fastest = report.sections[0].tables[0]
    assert [row[0] for row in fastest.rows] == ["slow", "fast"]
    assert [row[-1] for row in fastest.rows] == ["0 of 4", "4 of 4"]
    assert report.data["fastest"]["ttft_p50"] == {"slow": [0, 1], "fast": [1, 1]}
    ratios = report.sections[1].tables[0]
    by_target = {row[1]: dict(zip(ratios.columns, row, strict=True)) for row in ratios.rows}
    assert by_target["fast"]["same texts"] == 1.0
    assert by_target["fast"]["TTFT P50 [ms]"] < 200 <= by_target["slow"]["TTFT P50 [ms]"]
    assert json.dumps(report.data)


def test_a_served_point_has_its_counters_and_its_goodput(fake_server) -> None:
    port = fake_server(chunk=3, ttft=0.05, gap=0.02)
    settings = Settings(repeats=2, duration=None, requests=6, goodput=Goodput(ttft=0.01), dollars_per_hour=3.6)
    made = run(sweep([remote(port)], settings, [Load("rate", 40), Load("concurrency", 3)]))
    report = serve_report(made, "command")
    assert [str(point.load) for point in made.points] == ["40 req/s", "3 at once"] * 2
    for point in made.points:
        assert (point.metrics.completed, point.metrics.output_tokens) == (6, 6)
        assert point.metrics.goodput == 0.0  # TTFT is at least 50 ms
        assert (point.server.drafts, point.server.draft_tokens, point.server.accepted_tokens) == (12, 36, 24)
        assert point.server.acceptance_length == pytest.approx(3.0)
    section = report.sections[0]
    assert [table.title for table in section.tables] == ["Latency", "Throughput", "Counters of the server"]
    throughput = [dict(zip(section.tables[1].columns, row, strict=True)) for row in section.tables[1].rows]
    assert [row["requests"] for row in throughput] == [12, 12]
    rate = throughput[0]["output tokens/s"]
    assert isinstance(rate, float)
    assert throughput[0]["$ / 1M output tokens"] == pytest.approx(1000 / rate)
    assert [plot.x_title for plot in section.plots][::3] == ["arrivals [requests/s]", "requests at once"]
    assert section.plots[0].series[0].name == "TTFT P50" and list(section.plots[0].series[0].x) == [40]
    assert any("No reading of the machine's noise" in warning for warning in report.warnings)


def test_a_saturated_server_is_not_pressed_harder(fake_server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.bench.load.points.SATURATED_TTFT", 0.2)
    port = fake_server(slots=1, ttft=0.05)  # 16 requests a second at most
    loads = [Load("rate", rate) for rate in (40, 50, 60)]
    settings = Settings(repeats=2, duration=None, requests=12, warm_ups=0, process="constant")
    made = run(sweep([remote(port)], settings, loads))
    assert [point.load.value for point in made.points] == [40, 40]
    assert [(skipped.load.value, skipped.why) for skipped in made.skipped] == [
        (50, "saturated at 40 req/s"),
        (60, "saturated at 40 req/s"),
    ]
    text = " ".join(serve_report(made, "").sections[0].text)
    assert "was not measured at 50 req/s, 60 req/s: saturated at 40 req/s" in text


def test_higher_rates_are_measured_when_they_are_wanted(fake_server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.bench.load.points.SATURATED_TTFT", 0.2)
    port = fake_server(slots=1, ttft=0.05)
    settings = Settings(repeats=1, duration=None, requests=12, warm_ups=0, until_saturated=False)
    made = run(sweep([remote(port)], settings, [Load("rate", 40), Load("rate", 50)]))
    assert [point.load.value for point in made.points] == [40, 50] and not made.skipped


def test_a_target_that_dies_takes_no_further_part_and_the_others_go_on() -> None:
    made = run(sweep([owned("a"), owned("b", die_after=8)], FAST, [Load("rate", 20), Load("rate", 25)]))
    assert list(made.failures) == ["b"]
    assert "ended with status 3" in made.failures["b"] and "out of order" in made.failures["b"]
    assert [(point.target, bool(point.problem)) for point in made.points][-1] == ("a", False)
    assert [point.load.value for point in made.points if point.target == "a"] == [20, 25]
    report = compare_report(made, "command")
    assert any(warning.startswith("b FAILED: gone at ner") for warning in report.warnings)


def test_a_url_whose_server_goes_away_ends_the_run_with_what_there_is(fake_server) -> None:
    port = fake_server(die_after=10)
    settings = Settings(repeats=3, duration=None, requests=40, warm_ups=0)
    made = run(sweep([remote(port)], settings, [Load("rate", 40)]))
    assert len(made.points) == 1
    assert "10 connections in a row failed" in made.points[0].problem
    assert "Is the server running there?" in made.failures["remote"]
    errors = serve_report(made, "").sections[-1].tables[0]
    assert ["ner, 40 req/s", "remote", "never sent"] in [list(row[:3]) for row in errors.rows]


def test_a_server_that_is_nobody_is_refused() -> None:
    from paceline.bench.peers.targets import free_port

    with pytest.raises(LoadError, match=r"cannot reach http://127\.0\.0\.1:\d+: .*Is the server running there"):
        run(sweep([remote(free_port())], FAST, [Load("rate", 1)]))


def test_a_chat_that_is_refused_becomes_a_completion_and_is_said(fake_server) -> None:
    made = run(sweep([remote(fake_server(chat=False))], FAST, [Load("rate", 40)]))
    (target,) = made.targets
    assert target.api == "completions"
    assert any(
        "refuses a chat" in warning and "no chat template" in warning for warning in serve_report(made, "").warnings
    )
    assert made.points[0].metrics.completed == 6


def test_requests_go_to_the_path_behind_the_url() -> None:
    target = LoadTarget("x", Endpoint("http", "h", 1, prefix="/deep"), model="m", api="chat")
    shot = Shot(0.5, user("hi"), 9, "adapter", ignore_eos=True)
    sent = target.request(shot, 0.7)
    assert (sent.at, sent.path, sent.model) == (0.5, "/deep/v1/chat/completions", "adapter")
    assert sent.body == {
        "messages": [{"role": "user", "content": "hi"}], "model": "adapter", "max_tokens": 9, "temperature": 0.7,
        "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True,
    }  # fmt: skip
    plain = target.request(Shot(0, user("hi"), 9), 0.0, "completions", stream=False)
    assert plain.path == "/v1/completions" and plain.body["prompt"] == "hi" and plain.body["model"] == "m"


def test_an_adapter_that_the_server_does_not_have_is_refused_before_anything_is_measured(fake_server) -> None:
    port = fake_server(names=["fake", "mine"])
    with pytest.raises(LoadError, match=r"adapter 'other': .*no model other"):
        run(sweep([remote(port, adapters=["other"])], FAST, [Load("rate", 1)]))
    made = run(sweep([remote(port, adapters=["mine"])], FAST, [Load("rate", 40)], adapters=["", "mine"]))
    assert made.points[0].metrics.errors == {}


def test_a_server_without_a_list_of_models_needs_a_name(fake_server) -> None:
    port = fake_server(models=False)
    with pytest.raises(LoadError, match="URL#MODEL"):
        run(sweep([remote(port)], FAST, [Load("rate", 1)]))
    assert run(sweep([remote(port, model="fake")], FAST, [Load("rate", 40)])).points[0].metrics.completed == 6


def test_errors_are_shown_by_what_they_say(fake_server) -> None:
    made = run(sweep([remote(fake_server(fail="prompt"), "x")], FAST, [Load("rate", 40)]))
    report = serve_report(made, "")
    assert report.sections[-1].tables[0].rows == [["ner, 40 req/s", "x", "status 500: I cannot", 6]]
    throughput = report.sections[0].tables[1]
    assert dict(zip(throughput.columns, throughput.rows[0], strict=True))["errors"] == 6


def test_a_late_client_marks_the_point_invalid(fake_server) -> None:
    settings = Settings(repeats=1, duration=None, requests=6, late_limit=-1.0)  # nobody is that early
    made = run(sweep([remote(fake_server())], settings, [Load("rate", 40)]))
    report = serve_report(made, "")
    (warning,) = [
        warning for warning in report.warnings if warning.startswith("INVALID: the client was late at 1 of 1")
    ]
    assert "remote, ner, 40 req/s, repeat 1: requests left" in warning
    assert str(report.sections[0].tables[1].rows[0][-1]).endswith("INVALID")


def test_a_run_that_is_stopped_shows_what_was_measured(fake_server) -> None:
    port = fake_server(hang="slow")
    settings = Settings(repeats=1, duration=None, requests=3, warm_ups=0)
    made = sweep([remote(port)], settings, [Load("rate", 40), Load("rate", 50)])

    async def stop_in_the_second_point() -> None:
        task = asyncio.create_task(made.run())
        while not made.points:
            await asyncio.sleep(0.01)
        task.cancel()
        await task

    asyncio.run(stop_in_the_second_point())
    assert made.interrupted and len(made.points) == 1
    assert serve_report(made, "").warnings[0].startswith("STOPPED")
