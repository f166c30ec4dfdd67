"""Conversations in a closed loop: places kept full, real answers fed back, what is noted of each step."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_engine import LetterPrompter, ScriptedEngine, plan

from paceline.bench.speculation import closed_loop
from paceline.bench.speculation.closed_loop import ClosedLoop, Planned
from paceline.bench.speculation.turns import Pass, Turn
from paceline.engine.messages import SequenceDelta, StepReport, StepSpeculation
from paceline.errors import PacelineError


def run(
    engine: ScriptedEngine, planned: list[Planned], load: int = 1, speculative: bool = True, max_tokens: int = 50
) -> Pass:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_loop.time, "perf_counter", engine.now)
        prompter: Any = LetterPrompter()
        return ClosedLoop(engine, prompter, load, max_tokens, 0.0, speculative).run(planned)


def test_steps_behind_the_prefill_are_verifications_with_their_lengths() -> None:
    passed = run(ScriptedEngine(lambda _: "abcdefgh"), plan(["hello"]))
    turn = passed.turns[0, 0]
    assert turn.prefill_tokens == 1
    assert turn.lengths == [3, 3, 2]  # eight letters and the stop token
    assert turn.drafted == {"suffix": 8} and turn.accepted == {"suffix": 5}
    assert turn.drafted_steps == 3


def test_user_rate_counts_tokens_behind_the_first_and_seconds_include_the_prefill() -> None:
    turn = run(ScriptedEngine(lambda _: "abcdefgh"), plan(["hello"]), speculative=False).turns[0, 0]
    assert turn.user_rate == pytest.approx(8 / 0.08)
    assert turn.seconds == pytest.approx(0.09)


def test_an_answer_of_one_token_has_no_user_rate() -> None:
    assert run(ScriptedEngine(lambda _: "abc"), plan(["hello"]), max_tokens=1).turns[0, 0].user_rate is None


def test_without_drafts_every_step_gives_one_token_and_asks_for_no_report() -> None:
    engine = ScriptedEngine(lambda _: "abcd")
    passed = run(engine, plan(["hello"]), speculative=False)
    assert passed.turns[0, 0].lengths == [1] * 4
    wish = engine.requests[0].params.speculative
    assert wish is not None and not wish.enabled and not wish.report


def test_no_more_than_the_load_are_open_and_places_are_refilled_at_once() -> None:
    engine = ScriptedEngine(lambda text: "abc" * (1 + text.count("!")))
    passed = run(engine, plan(*(["x" + "!" * (i % 3)] for i in range(9))), load=3)
    assert engine.most_open == 3
    assert len(passed.turns) == 9
    assert passed.full_seconds < passed.counters["step_seconds"]  # the last conversations ran beside empty places
    assert passed.full_tokens < passed.tokens


def test_one_stream_is_always_full() -> None:
    passed = run(ScriptedEngine(lambda _: "abc"), plan(["a"], ["b"]))
    assert passed.full_tokens == passed.tokens == 8
    assert passed.full_rate == pytest.approx(passed.output_rate)


def test_the_second_turn_carries_the_real_answer_without_its_stop_token() -> None:
    engine = ScriptedEngine(lambda text: "first" if "more" not in text else "second")
    run(engine, plan(["hello", "more"]))
    assert "".join(map(chr, engine.requests[1].prompt_ids)) == "u:hello a:first u:more "


def test_a_conversation_keeps_its_place_through_its_turns() -> None:
    engine = ScriptedEngine(lambda _: "ok")
    run(engine, plan(["a", "b"], ["c", "d"]))
    assert [request.request_id for request in engine.requests] == ["0/0", "0/1", "1/0", "1/1"]


def test_a_turn_that_exceeds_the_context_ends_the_conversation_and_is_counted() -> None:
    engine = ScriptedEngine(lambda _: "ok", context_length=70)
    passed = run(engine, plan(["hello", "x" * 40], ["hello", "y"]))
    assert passed.cut_short == 1
    assert sorted(passed.turns) == [(0, 0), (1, 0), (1, 1)]


def test_counters_are_of_this_pass_only_and_agree_with_the_answers() -> None:
    engine = ScriptedEngine(lambda _: "abcdefgh")
    run(engine, plan(["warm"]))
    passed = run(engine, plan(["hello"]))
    assert passed.counters["generation_tokens"] == 9
    assert passed.counters["draft_tokens"] == 8
    assert passed.miscounts() == []


def test_an_engine_that_miscounts_is_found() -> None:
    passed = run(ScriptedEngine(lambda _: "ab", miscount=1), plan(["hello"]))
    assert passed.miscounts() == ["the engine counted 5 generation_tokens, the answers 3"]


def test_sampled_requests_have_the_same_seeds_with_and_without_drafts() -> None:
    engine = ScriptedEngine(lambda _: "ab")
    run(engine, plan(["a"], ["b"]))
    run(engine, plan(["a"], ["b"]), speculative=False)
    seeds = [request.params.seed for request in engine.requests]
    assert seeds[:2] == seeds[2:] and seeds[0] != seeds[1]


def test_a_request_that_the_engine_gives_up_ends_the_run() -> None:
    class Broken(ScriptedEngine):
        def step(self) -> StepReport:
            return StepReport(deltas=[SequenceDelta(request_id="0/0", finish_reason="error", error="no number")])

    with pytest.raises(PacelineError, match="no number"):
        run(Broken(lambda _: "ab"), plan(["hello"]))


def test_answers_that_start_together_end_in_turns() -> None:
    engine = ScriptedEngine(lambda _: "abcdefgh" * 8)
    passed = run(engine, plan(["a"], ["b"], ["c"], ["d"], ["e"]), load=4, max_tokens=40)
    assert [len(passed.turns[index, 0].token_ids) for index in range(5)] == [10, 20, 30, 40, 40]


def test_requests_name_the_adapter_that_answers() -> None:
    engine, prompter = ScriptedEngine(lambda _: "abc"), LetterPrompter()
    ClosedLoop(engine, prompter, 1, 5, 0.0, True, "mine").run(plan(["a"]))  # type: ignore[arg-type]
    assert [request.adapter for request in engine.requests] == ["mine"]


def test_a_prefill_that_verified_drafts_is_a_step_and_its_tokens_came_first() -> None:
    turn = Turn(sent=0.0, prompt_tokens=9)
    verified = StepSpeculation(drafted={"suffix": 4}, sources=["suffix", "suffix"])
    turn.take(SequenceDelta(request_id="a", token_ids=[1, 2, 3], speculation=verified), 1.0)
    turn.take(SequenceDelta(request_id="a", token_ids=[4, 5], speculation=StepSpeculation()), 2.0)
    assert turn.lengths == [3, 2] and turn.prefill_tokens == 0 and turn.drafted_steps == 1
    assert turn.user_rate == 2.0
    plain = Turn(sent=0.0, prompt_tokens=9)
    plain.take(SequenceDelta(request_id="a", token_ids=[1], speculation=StepSpeculation()), 1.0)
    assert plain.lengths == [] and plain.prefill_tokens == 1 and plain.user_rate is None
