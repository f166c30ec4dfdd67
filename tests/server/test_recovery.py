"""Judging deaths of the engine: who is to blame, when to be careful, when to give up."""

from __future__ import annotations

import pytest

from paceline.engine.messages import Request
from paceline.sampling.params import SamplingParams
from paceline.server.open_requests import OpenRequest
from paceline.server.recovery import LIMIT, WINDOW_S, Recovery, Verdict


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recovery(clock) -> Recovery:
    return Recovery(clock)


def opened(name: str = "r") -> OpenRequest:
    return OpenRequest(Request(request_id=name, prompt_ids=[1], params=SamplingParams(seed=1), arrival_time=0.0))


def die(recovery: Recovery, computing: list[OpenRequest], progressed: list[OpenRequest] = []) -> Verdict:  # noqa: B006
    """One engine that computes some requests, gives some of them tokens, and dies."""
    for request in computing:
        request.submitted = True
    for request in progressed:
        request.progressed = True
    return recovery.died(computing, progressed=bool(progressed))


def test_one_death_is_no_reason_for_anything(recovery) -> None:
    assert die(recovery, [opened()]) == Verdict()
    assert not recovery.cautious


def test_caution_from_the_second_death_on(recovery) -> None:
    die(recovery, [])
    die(recovery, [])
    assert recovery.cautious


def test_deaths_without_progress_lead_to_giving_up(recovery) -> None:
    requests = [opened("a"), opened("b")]
    verdicts = [die(recovery, requests) for _ in range(LIMIT)]
    assert [verdict.give_up for verdict in verdicts] == [False] * (LIMIT - 1) + [True]


def test_starts_without_progress_are_spaced_out(recovery) -> None:
    pauses = [die(recovery, []).pause_s for _ in range(LIMIT)]
    assert pauses[0] == 0.0 < pauses[1] < pauses[2]


def test_progress_of_anybody_starts_the_count_anew(recovery) -> None:
    a, b = opened("a"), opened("b")
    for _ in range(3 * LIMIT):
        assert not die(recovery, [a, b], progressed=[a]).give_up
        assert not die(recovery, [a, b], progressed=[b]).give_up
    assert not die(recovery, [a, b]).give_up


def test_deaths_long_ago_are_forgotten(recovery, clock) -> None:
    for _ in range(3 * LIMIT):
        clock.now += WINDOW_S + 1
        assert die(recovery, []) == Verdict()
        assert not recovery.cautious


def test_the_only_request_without_a_token_in_several_dead_engines_is_the_culprit(recovery) -> None:
    bad, good = opened("bad"), opened("good")
    verdicts = [die(recovery, [bad, good], progressed=[good]) for _ in range(LIMIT)]
    assert [verdict.culprit for verdict in verdicts] == [None] * (LIMIT - 1) + [bad]
    assert not verdicts[-1].give_up


def test_of_several_suspects_none_is_dropped(recovery) -> None:
    a, b, good = opened("a"), opened("b"), opened("good")
    for _ in range(3 * LIMIT):
        assert die(recovery, [a, b, good], progressed=[good]).culprit is None


def test_a_request_that_was_not_submitted_is_not_suspected(recovery) -> None:
    waiting = opened("waiting")
    for _ in range(LIMIT):
        recovery.died([waiting], progressed=False)
    assert waiting.deaths == 0


def test_a_token_clears_a_suspect(recovery) -> None:
    request, other = opened("r"), opened("o")
    die(recovery, [request, other], progressed=[other])
    die(recovery, [request, other], progressed=[request, other])
    assert request.deaths == 0


def test_dropping_a_culprit_counts_as_progress(recovery) -> None:
    bad = opened("bad")
    verdicts = [die(recovery, [bad]) for _ in range(LIMIT)]
    assert verdicts[-1].culprit is bad and not verdicts[-1].give_up
    assert not die(recovery, []).give_up
