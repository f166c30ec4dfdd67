"""When a drafter that runs a model is asked: by what its drafts take, and by what its promises were worth."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from paceline.speculation.costs import StepCosts
from paceline.speculation.decision import StepShape
from paceline.speculation.prospect import COLD_STEPS, FIRST_CALLS, PROBE_CALLS, PROBE_EVERY, Prospect, together
from paceline.speculation.step_terms import StepTerms

COSTS = StepCosts([(1, 4e-3), (9, 4.8e-3), (64, 12e-3)])
TERMS = StepTerms(COSTS, StepShape(1, 0, 64, (10,)), (10,), 0.2)
GOOD = [("a", [0.9, 0.8, 0.7, 0.6])]


class WholeDrafter:
    name, cheap, layers = "whole", False, ()

    def longest(self, sequence: object) -> int:
        return 8


def asked(prospect: Prospect, have: tuple[float, ...] = ()) -> list[int]:
    sequence = SimpleNamespace(adapter="a", length=10)
    return prospect.wanted([sequence], [20], [have], TERMS, TERMS.admit([have]))


def test_calls_that_gave_nothing_tell_nothing_of_what_drafts_take() -> None:
    prospect = Prospect(WholeDrafter())
    for _ in range(FIRST_CALLS):
        prospect.learn(1, 8, 2e-5, [])
    assert prospect.seconds(1, 8) == 0.0, "nothing is known"
    for seconds in (26e-3, *[9e-4] * (FIRST_CALLS - 1)):
        prospect.learn(1, 8, seconds, GOOD)
    assert prospect.seconds(1, 8) == pytest.approx(9e-4, rel=0.1), "the one that read the prompt hardly counts"
    prospect.learn(1, 8, 2e-5, [])
    assert prospect.seconds(1, 8) == pytest.approx(9e-4, rel=0.1)


def test_a_drafter_of_one_pass_is_asked_for_all_it_can_give_or_not_at_all() -> None:
    cheap, dear = Prospect(WholeDrafter()), Prospect(WholeDrafter())
    for _ in range(FIRST_CALLS):
        cheap.learn(1, 8, 5e-4, GOOD)
        dear.learn(1, 8, 50e-3, GOOD)
    assert asked(cheap) == [8] and asked(dear) == [0]
    assert asked(cheap, (0.99,) * 12) == [0], "others have said it all"


def test_promises_that_are_not_kept_are_believed_less_until_it_is_looked_at_again() -> None:
    prospect = Prospect(WholeDrafter())
    for _ in range(FIRST_CALLS):
        prospect.learn(1, 8, 5e-4, GOOD)
    plain, calls = TERMS.admit([()]), 0
    while asked(prospect) == [8]:
        prospect.learn(1, 8, 5e-4, GOOD)
        prospect.judge(plain, plain)  # its drafts changed nothing
        calls += 1
        assert calls < 1000, "it is asked for ever"
    steps = 1
    while asked(prospect) == [0]:
        steps += 1
        assert steps <= PROBE_EVERY, "it is never looked at again"
    for _ in range(PROBE_CALLS):
        prospect.learn(1, 8, 5e-4, GOOD)
        assert asked(prospect) == [8], "and trusted once more"


def test_what_cold_calls_take_is_not_what_calls_take() -> None:
    prospect = Prospect(WholeDrafter())
    for _ in range(FIRST_CALLS):
        prospect.learn(1, 8, 5e-4, GOOD)
    for _ in range(20):  # asked now and then only, each call catches up
        for _ in range(COLD_STEPS + 1):
            prospect.idle()
        prospect.learn(1, 8, 20e-3, GOOD)
    assert prospect.seconds(1, 8) == pytest.approx(5e-4, rel=0.1) and asked(prospect) == [8]


def test_a_dear_drafter_that_became_cheap_is_found_out_by_a_look() -> None:
    prospect = Prospect(WholeDrafter())
    for _ in range(FIRST_CALLS):
        prospect.learn(1, 8, 50e-3, GOOD)
    assert asked(prospect) == [0]
    looks = calls = 0
    while prospect.seconds(1, 8) > 1e-3:
        if asked(prospect) == [8]:
            prospect.learn(1, 8, 20e-3 if calls % PROBE_CALLS == 0 else 5e-4, GOOD)
            looks, calls = looks + (calls % PROBE_CALLS == 0), calls + 1
        assert looks < 30, "one that is asked rarely is never found to be cheap"
    assert calls >= PROBE_CALLS * looks - PROBE_CALLS


def test_a_second_draft_gets_what_the_first_leaves_open() -> None:
    assert together([], [0.5]) == [0.5] and together([0.5], []) == [0.5]
    assert together([0.8, 0.4], [0.5, 0.5, 0.2]) == pytest.approx([0.8, 0.4, 0.3, 0.2, 0.1])
