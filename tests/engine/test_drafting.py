"""How much a sequence may draft, and what is counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fake_drafters import ScriptedDrafter, TakesAll, TreeDrafter
from fake_model import fake_spec, make_engine, make_request, prompt_of, reference_output, serve

from paceline.engine.batch_builder import depths
from paceline.engine.drafting import Drafting
from paceline.engine.messages import EngineStats
from paceline.errors import InvalidRequestError
from paceline.sampling.speculative import MAX_DRAFT, Speculative
from paceline.speculation.decision import Decision
from paceline.speculation.draft import Draft


class Watching(TakesAll):
    """Remembers the limits and other rows it was asked with."""

    asked: list[tuple[list[int], int]]

    def choose(self, sequences, limits, shape):
        self.asked.append((list(limits), shape.other_rows))
        return super().choose(sequences, limits, shape)


def watched(length: int = 4, error_rate: float = 0.0, **params: object):
    """An engine whose only request was served, its controller and the request's outcome."""
    request = make_request("r", prompt_of(20), **{"max_tokens": 20, "ignore_eos": True, **params})
    known = {("r", 0): reference_output(fake_spec(), request)}
    engine, _ = make_engine(drafter=ScriptedDrafter(known, length, error_rate))
    controller = Watching(ScriptedDrafter(known, length, error_rate))
    controller.asked = []
    assert engine.drafting is not None
    engine.drafting.controller = controller
    return engine, controller, serve(engine, request)["r", 0]


def test_a_sequence_drafts_at_most_one_token_less_than_it_may_take() -> None:
    _, controller, _ = watched(error_rate=1.0, max_tokens=5)
    assert [limits for limits, _ in controller.asked] == [[4], [3], [2], [1]]


def test_nothing_drafts_more_than_an_ancestor_mask_holds() -> None:
    _, controller, _ = watched(max_tokens=200)
    assert controller.asked[0] == ([MAX_DRAFT], 19)  # the prompt's other rows


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_request_may_limit_its_drafts(limit: int) -> None:
    engine, controller, outcome = watched(speculative=Speculative(max_draft=limit))
    assert all(limits == [limit] or limits < [limit] for limits, _ in controller.asked)
    assert (engine.stats().draft_tokens > 0) == (limit > 0)
    assert len(outcome.deltas) == (20 if limit == 0 else -(-20 // (limit + 1)))


def test_a_request_may_switch_speculation_off() -> None:
    engine, controller, outcome = watched(speculative=Speculative(enabled=False))
    assert not controller.asked and engine.stats().draft_tokens == 0
    assert len(outcome.deltas) == len(outcome.token_ids) == 20


def test_an_unknown_drafter_is_refused_with_those_that_there_are() -> None:
    engine, _ = make_engine(drafter=ScriptedDrafter({}))
    with pytest.raises(InvalidRequestError, match="no drafter 'magic'; it has: scripted"):
        engine.add(make_request("r", [1], speculative=Speculative(drafters=("magic",))))
    engine, _ = make_engine()
    with pytest.raises(InvalidRequestError, match="speculation is off"):
        engine.add(make_request("r", [1], speculative=Speculative(drafters=("magic",))))


def test_counters_tell_drafters_and_positions_apart() -> None:
    engine, _, _ = watched(length=3, error_rate=0.4)
    (counters,) = engine.stats().drafters
    assert (counters.drafter, counters.adapter) == ("scripted", "")
    assert counters.draft_tokens == sum(counters.drafted_per_position) == engine.stats().draft_tokens
    assert counters.accepted_tokens == sum(counters.accepted_per_position) == engine.stats().accepted_tokens
    assert counters.drafts == counters.drafted_per_position[0] > counters.accepted_per_position[0] > 0
    assert engine.stats().decisions["scripted"] == counters.drafts


def test_a_report_tells_who_proposed_what_the_sequence_took() -> None:
    engine, _, outcome = watched(length=3, speculative=Speculative(report=True))
    reports = [delta.speculation for delta in outcome.deltas]
    assert all(len(d.token_ids) == len(d.speculation.sources) + 1 for d in outcome.deltas)
    assert sum(report.drafted.get("scripted", 0) for report in reports) == engine.stats().draft_tokens
    assert all(report.time > 0 and report.time_without > 0 for report in reports)
    assert all(delta.speculation is None for delta in watched()[2].deltas)


def test_ended_and_aborted_sequences_are_forgotten() -> None:
    drafter = ScriptedDrafter({})
    engine, _ = make_engine(drafter=drafter)
    serve(engine, make_request("done", prompt_of(5), max_tokens=3))
    engine.add(make_request("gone", prompt_of(5), max_tokens=30))
    engine.step()
    engine.abort("gone")
    assert drafter.forgotten == [("done", 0), ("gone", 0)]


def test_trees_behind_long_prompts_stay_within_the_limit_of_rows() -> None:
    request = make_request("r", prompt_of(120), max_tokens=30, ignore_eos=True)
    known = {("r", 0): reference_output(fake_spec(), request)}
    engine, _ = make_engine(drafter=TreeDrafter(known, 3), max_rows=80)
    assert serve(engine, request)["r", 0].token_ids == known["r", 0]


def test_depth_counts_from_the_last_known_token() -> None:
    assert depths(Draft((1, 2, 3), "test")) == [1, 2, 3]
    assert depths(Draft((1, 2, 3, 4), "test", (-1, 0, -1, 1))) == [1, 2, 1, 3]


def test_a_prompt_beside_a_draft_is_not_what_each_of_its_tokens_would_have_cost() -> None:
    """Three tokens of a step with a prompt: without drafts that step, and two steps without the prompt."""
    nobody: Any = SimpleNamespace(draft=None)
    drafting = Drafting(nobody, nobody, EngineStats())
    drafting._decision = Decision((), seconds=0.12, seconds_without=0.1, seconds_alone=0.01)
    assert drafting.report(nobody, (), 3, 0.12).time_without == pytest.approx(0.1 + 2 * 0.01)
