"""Speculation measured at servers: whose steps are counted by whom, and what is said when counts disagree."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from chat_servers import ChatServer, serving

from paceline.bench.client import Timeline
from paceline.bench.endpoint import EndpointError, endpoint_of
from paceline.bench.noise import NoiseGuard
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.points import Outcome, Point, PointBench, PointSettings
from paceline.bench.speculation.served.conversation import turn_of
from paceline.bench.speculation.served.runner import ServerRunner
from paceline.bench.speculation.served.server import open_server
from paceline.bench.speculation.workloads import Conversation
from paceline.errors import PacelineError

SETTINGS = PointSettings((2,), (0.0,), (None,), 40)


@pytest.fixture(autouse=True)
def _no_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseGuard, "sample", lambda self: None)


def talk(key: str, category: str, *turns: str) -> Planned:
    return Planned(Conversation(key, category, turns), [])


PROMPTS = [talk("a", "qa", "3 abcdefg"), talk("b", "qa", "2 abcde", "1 xyz"), talk("c", "rag", "4 abcdefgh")]


def measured(url: str, settings: PointSettings = SETTINGS, baseline: str = "", prompts: Any = PROMPTS) -> PointBench:
    runner = ServerRunner(open_server(endpoint_of(url)), open_server(endpoint_of(baseline)) if baseline else None)
    bench = PointBench(runner, settings, say=lambda _: None)
    planned, _ = runner.plan([one.conversation for one in prompts], 1)
    bench.run({"set": planned})
    return bench


def real(server: ChatServer) -> list[dict[str, Any]]:
    """What was asked but for warm-ups, in the order of the asking."""
    return [body for body in server.bodies if len(body["messages"][0]["content"]) < 50]


def test_paceline_reports_the_steps_of_each_request() -> None:
    with serving(ChatServer("paceline")) as url:
        (outcome,) = measured(url).outcomes
    counts = outcome.acceptance()
    # a: 8 tokens, 1 + 3 + 3 + 1; b: 6, 1 + 2 + 2 + 1, then 4 of length 1; c: 9, 1 + 4 + 4
    assert counts.lengths == {3: 2, 1: 5, 2: 2, 4: 2}
    assert counts.macro == pytest.approx((7 / 3 + (5 + 3) / 6 + 8 / 2) / 3)
    assert counts.micro == pytest.approx(23 / 11)
    assert counts.macro_with_prefill == pytest.approx((8 / 4 + 10 / 8 + 9 / 3) / 3)
    assert counts.rate == pytest.approx(12 / 23)
    assert outcome.acceptance("rag").macro == pytest.approx(4.0)
    assert outcome.errors() == [] and outcome.on[0].notes == []


def test_paceline_does_without_drafts_by_request_and_answers_the_same() -> None:
    with serving(server := ChatServer("paceline")) as url:
        (outcome,) = measured(url).outcomes
    assert Counter(str(body["speculative"]) for body in real(server)) == {
        "{'enabled': False}": 4,
        "{'report': True}": 4,
    }
    assert outcome.measurement is not None and outcome.measurement.differences() == []
    off, on = ({key: turn.tokens for key, turn in p.turns.items()} for p in (outcome.off[0], outcome.on[0]))
    assert off == on == {(0, 0): 8, (1, 0): 6, (1, 1): 4, (2, 0): 9}


def test_draft_lengths_go_with_requests_and_share_one_pass_without_drafts() -> None:
    with serving(server := ChatServer("paceline")) as url:
        bench = measured(url, PointSettings((2,), (0.0,), (1, 3), 40))
    wishes = [str(body["speculative"]) for body in real(server)]
    assert Counter(wishes) == {
        "{'enabled': False}": 4,
        "{'report': True, 'max_draft': 1}": 4,
        "{'report': True, 'max_draft': 3}": 4,
    }
    assert [max(outcome.acceptance().lengths) for outcome in bench.outcomes] == [2, 4]
    assert bench.outcomes[0].off is bench.outcomes[1].off


def test_answers_are_fed_back_and_conversations_keep_their_places() -> None:
    with serving(server := ChatServer("paceline")) as url:
        measured(url, PointSettings((1,), (0.0,), (None,), 40))
    (second,) = [body for body in real(server) if len(body["messages"]) > 1 and "report" in body["speculative"]]
    assert [message["content"] for message in second["messages"]] == ["2 abcde", "abcde", "1 xyz"]
    on = [body["messages"][0]["content"][0] for body in real(server) if "report" in body["speculative"]]
    assert on == ["3", "2", "2", "4"]
    assert server.most_open <= 3  # the warm-ups'


def test_no_more_than_the_concurrency_are_open() -> None:
    many = [talk(str(i), "qa", "2 abcdefghijkl") for i in range(12)]
    with serving(server := ChatServer("paceline")) as url:
        server.most_open = 0
        measured(url, PointSettings((4,), (0.0,), (None,), 40), prompts=many)
    assert 1 <= server.most_open <= 4
    assert len(real(server)) == 24


def test_streams_that_merge_steps_are_noted_and_the_engines_count_stands() -> None:
    with serving(ChatServer("paceline", merge=True)) as url:
        (outcome,) = measured(url).outcomes
    assert outcome.acceptance().micro == pytest.approx(23 / 11)
    (note,) = outcome.on[0].notes
    assert "4 chunks where the engine counted 11 steps (they differ in 4 of 4 requests)" in note
    assert "5.75 tokens a chunk, 2.09 a step" in note
    assert outcome.errors() == []


def test_steps_that_do_not_make_the_answer_are_an_error() -> None:
    with serving(ChatServer("paceline", lie=2)) as url:
        errors = measured(url).outcomes[0].errors()
    assert any("prompt a, turn 1: the engine's steps gave 8 tokens, the answer has 10" in error for error in errors)


def test_more_chunks_than_steps_are_an_error() -> None:
    timeline = Timeline(0.0, [1.0, 2.0, 3.0, 4.0], 3, 5, "abc")
    timeline.usage = {"speculation": {"histogram": [0, 0, 1], "prefill_steps": 1, "by_drafter": {}, "time_s": 0.0,
                                      "estimated_time_without_s": 0.0}}  # fmt: skip
    problems: list[str] = []
    turn_of(timeline, problems, "it")
    assert problems == ["it: the stream has 4 chunks, the engine counted only 2 steps"]


def test_a_prefill_that_verified_drafts_has_no_step_of_its_own() -> None:
    timeline = Timeline(0.0, [1.0, 3.0], 5, 5, "abcde")
    timeline.usage = {"speculation": {"histogram": [0, 0, 1, 1], "prefill_steps": 0, "by_drafter": {}, "time_s": 0.0,
                                      "estimated_time_without_s": 0.0}}  # fmt: skip
    problems: list[str] = []
    turn = turn_of(timeline, problems, "it")
    assert problems == [] and turn.prefill_tokens == 0 and turn.lengths == [2, 3]
    assert turn.user_rate == pytest.approx((5 - 1) / 2)


def test_counters_that_grew_by_more_than_was_reported_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.bench.speculation.served.runner.SETTLE_SECONDS", 0.0)
    with serving(ChatServer("paceline", others=100)) as url:
        (outcome,) = measured(url).outcomes
    (note,) = outcome.on[0].notes
    assert note.startswith("/metrics counted 423 draft tokens, 12 accepted; the requests report 23 and 12")


def test_other_servers_are_counted_by_category_from_their_metrics() -> None:
    with serving(ChatServer("vllm")) as url, serving(ChatServer("plain")) as baseline:
        (outcome,) = measured(url, baseline=baseline).outcomes
    rag, qa, everything = outcome.acceptance("rag"), outcome.acceptance("qa"), outcome.acceptance()
    assert rag.micro == pytest.approx(1 + 6 / 2) and qa.micro == pytest.approx(1 + 6 / 9)
    assert everything.micro == pytest.approx(1 + 12 / 11) and everything.sums_only
    assert everything.joint == pytest.approx([6 / 11, 4 / 11, 2 / 11])
    assert everything.conditional == pytest.approx([6 / 11, 4 / 6, 2 / 4])
    assert everything.lengths == {1: 5, 2: 2, 3: 2, 4: 2}


def test_other_servers_get_no_key_that_they_do_not_know_and_a_second_one_does_without_drafts() -> None:
    with serving(one := ChatServer("vllm")) as url, serving(other := ChatServer("plain")) as baseline:
        (outcome,) = measured(url, baseline=baseline).outcomes
    assert len(real(one)) == len(real(other)) == 4
    assert not any("speculative" in body for body in (*one.bodies, *other.bodies))
    assert outcome.measurement is not None and outcome.measurement.speedup is not None


def test_without_a_baseline_there_is_no_comparison() -> None:
    with serving(ChatServer("vllm")) as url:
        (outcome,) = measured(url).outcomes
    assert outcome.off == [] and outcome.measurement is None
    assert outcome.acceptance().micro > 1


def test_a_server_that_tells_nothing_has_times_and_no_acceptance() -> None:
    with serving(ChatServer("plain", context=None)) as url:
        (outcome,) = measured(url).outcomes
    assert outcome.acceptance().steps == 0
    assert all(turn.user_rate for turn in outcome.on[0].turns.values())


def test_different_answers_of_the_two_servers_are_errors() -> None:
    class Other(ChatServer):
        def events(self, body: dict[str, Any]) -> Any:
            for event in super().events(body):
                if event["choices"] and event["choices"][0]["delta"]["content"] == "c":
                    event["choices"][0]["delta"]["content"] = "X"
                yield event

    with serving(ChatServer("vllm")) as url, serving(Other("plain")) as baseline:
        (outcome,) = measured(url, baseline=baseline, prompts=[talk("a", "qa", "1 abcde")]).outcomes
    (error,) = outcome.errors()
    assert error.endswith("prompt a, turn 1 differs from character 2 on")


def test_answers_stop_at_the_end_of_the_context() -> None:
    with serving(server := ChatServer("paceline", context=30)) as url:
        runner = ServerRunner(open_server(endpoint_of(url)))
        server.context = 10_000  # of the warm-ups
        prompts = [talk("a", "qa", "2 abcdefghij", "2 abcdefghij"), talk("b", "qa", "2 " + "x" * 40)]
        planned, too_long = runner.plan([one.conversation for one in prompts], 5)
        passed = runner.run(planned, Point(1, 0.0, None, 40), True)
    assert too_long == 1 and [one.conversation.key for one in planned] == ["a"]
    assert [body["max_tokens"] for body in real(server)] == [18]
    assert passed.cut_short == 1


def test_a_prefix_cache_is_seen() -> None:
    with serving(ChatServer("paceline", cached=3)) as url:
        (outcome,) = measured(url).outcomes
    assert outcome.on[0].cached_tokens == 12


def test_errors_name_the_server_and_what_to_do() -> None:
    with serving(ChatServer("plain")) as url:
        with pytest.raises(EndpointError, match="does not serve 'big'; it has tiny"):
            open_server(endpoint_of(url), "big")
        with pytest.raises(PacelineError, match="no /tokenize"):
            ServerRunner(open_server(endpoint_of(url))).tokens("x")
        with pytest.raises(EndpointError, match="too long for the context"):
            measured(url, PointSettings((2,), (0.0,), (None,), 2_999))
    with pytest.raises(EndpointError, match="plain HTTP only"):
        open_server(endpoint_of("https://127.0.0.1:1"))
    with pytest.raises(EndpointError, match="cannot reach"):
        open_server(endpoint_of("http://127.0.0.1:9"))


def test_one_category_of_a_server_that_tells_sums_is_its_counts() -> None:
    outcome = Outcome("set", Point(1, 0.0, None, 5), PROMPTS)
    assert outcome.acceptance().steps == 0 and outcome.categories == ["qa", "rag"]
