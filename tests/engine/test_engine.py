"""What a client of the engine can rely on: ends, limits, refusals, resuming, aborts, several outputs."""

from __future__ import annotations

import math
import time

import pytest
from fake_drafters import ScriptedDrafter
from fake_model import (
    EOS,
    NAN_TOKEN,
    VOCAB,
    Outcome,
    collect,
    drain,
    make_engine,
    make_request,
    prompt_of,
    reference_output,
    serve,
)

from paceline.errors import InvalidRequestError, OverloadedError

NEVER = {"ignore_eos": True}


def first(outcomes: dict[tuple[str, int], Outcome]) -> Outcome:
    (outcome,) = outcomes.values()
    return outcome


def a_prompt_that_ends(minimum: int = 3, **params: object) -> tuple[list[int], list[int]]:
    """A prompt whose greedy output ends with the end-of-sequence token, and that output."""
    engine, _ = make_engine()
    for seed in range(200):
        request = make_request("r", prompt_of(12, seed), max_tokens=60, **params)
        output = reference_output(engine.spec, request)
        if output[-1] == EOS and len(output) >= minimum:
            return request.prompt_ids, output
    raise AssertionError("no such prompt")


def test_max_tokens_ends_with_length() -> None:
    engine, _ = make_engine()
    outcome = first(serve(engine, make_request("r", prompt_of(10), max_tokens=7, **NEVER)))
    assert (len(outcome.token_ids), outcome.finish_reason) == (7, "length")
    assert outcome.deltas[-1].stop_token is None


def test_the_context_limit_ends_with_length() -> None:
    engine, _ = make_engine(context=64)
    outcome = first(serve(engine, make_request("r", prompt_of(50), **NEVER)))
    assert (len(outcome.token_ids), outcome.finish_reason) == (14, "length")


def test_end_of_sequence_ends_with_stop_and_is_the_last_token() -> None:
    prompt, expected = a_prompt_that_ends()
    outcome = first(serve(make_engine()[0], make_request("r", prompt)))
    assert outcome.token_ids == expected
    assert (outcome.finish_reason, outcome.deltas[-1].stop_token) == ("stop", EOS)


def test_ignore_eos_goes_on() -> None:
    prompt, expected = a_prompt_that_ends()
    outcome = first(serve(make_engine()[0], make_request("r", prompt, max_tokens=70, **NEVER)))
    assert outcome.token_ids[: len(expected)] == expected
    assert (len(outcome.token_ids), outcome.finish_reason) == (70, "length")


def test_a_stop_token_of_the_request_ends_even_with_ignore_eos() -> None:
    engine, _ = make_engine()
    prompt = prompt_of(10, 3)
    output = reference_output(engine.spec, make_request("r", prompt, max_tokens=20, **NEVER))
    stop = output[10]
    outcome = first(serve(engine, make_request("r", prompt, max_tokens=20, stop_token_ids=(stop,), **NEVER)))
    assert outcome.token_ids == output[: output.index(stop) + 1]
    assert (outcome.finish_reason, outcome.deltas[-1].stop_token) == ("stop", stop)


def test_min_tokens_holds_the_end_back() -> None:
    prompt, output = a_prompt_that_ends()
    outcome = first(serve(make_engine()[0], make_request("r", prompt, max_tokens=60, min_tokens=len(output) + 5)))
    assert len(outcome.token_ids) >= len(output) + 5
    assert EOS not in outcome.token_ids[: len(output) + 5]


def test_nothing_follows_a_stop_token_inside_an_accepted_draft() -> None:
    prompt, output = a_prompt_that_ends()
    endless = make_request("r", prompt, max_tokens=60, **NEVER)
    beyond = reference_output(make_engine()[0].spec, endless)
    assert beyond[: len(output)] == output
    engine, _ = make_engine(drafter=ScriptedDrafter({("r", 0): beyond}, length=8))
    outcome = first(serve(engine, make_request("r", prompt, max_tokens=60)))
    assert (outcome.token_ids, outcome.finish_reason) == (output, "stop")
    assert (len(output) - 1) % 9 < 8, "the stop token is not the last of its step"
    assert engine.stats().accepted_tokens == len(output) - len(outcome.deltas) + 1  # it was drafted
    again = serve(engine, make_request("again", prompt + beyond, max_tokens=1))["again", 0]
    assert again.deltas[0].num_cached_tokens == (len(prompt) + len(output)) // 16 * 16


def test_drafts_take_fewer_steps() -> None:
    request = make_request("r", prompt_of(10), max_tokens=40, **NEVER)
    engine, _ = make_engine()
    answer = first(serve(engine, request)).token_ids
    assert engine.stats().steps == 40
    engine, _ = make_engine(drafter=ScriptedDrafter({("r", 0): answer}, length=4))
    assert first(serve(engine, request)).token_ids == answer
    assert engine.stats().steps == 8  # 5 tokens a step, that of the prompt included
    assert (engine.stats().draft_tokens, engine.stats().accepted_tokens) == (32, 32)


def test_drafters_observe_exactly_the_tokens_that_were_taken() -> None:
    request = make_request("r", prompt_of(10), max_tokens=40)
    answer = reference_output(make_engine()[0].spec, request)
    drafter = ScriptedDrafter({("r", 0): answer}, error_rate=0.3)
    serve(make_engine(drafter=drafter)[0], request)
    assert drafter.observed == {("r", 0): answer}


@pytest.mark.parametrize(
    ("length", "params", "message"),
    [
        (64, {}, r"prompt has 64 tokens and no room is left.*context length is 64 tokens"),
        (40, {"max_tokens": 25}, r"prompt has 40 tokens and max_tokens is 25.*context length is 64 tokens"),
        (0, {}, "no tokens"),
    ],
)
def test_requests_that_can_never_be_served_are_refused_with_the_numbers(length, params, message) -> None:
    engine, _ = make_engine(context=64)
    with pytest.raises(InvalidRequestError, match=message):
        engine.add(make_request("r", prompt_of(length), **params))
    assert not engine.has_work()


def test_requests_beyond_the_cache_are_refused_with_both_limits() -> None:
    engine, _ = make_engine(context=256, kv_blocks=4)
    assert engine.context_length == 64
    with pytest.raises(InvalidRequestError, match=r"context length is 64 tokens here \(the model supports 256\)"):
        engine.add(make_request("r", prompt_of(100)))


def test_other_bad_requests_are_refused() -> None:
    engine, _ = make_engine()
    with pytest.raises(InvalidRequestError, match="token id 40 is not in the vocabulary"):
        engine.add(make_request("r", [1, VOCAB]))
    with pytest.raises(InvalidRequestError, match="no adapter 'a'"):
        request = make_request("r", [1])
        request.adapter = "a"
        engine.add(request)
    with pytest.raises(InvalidRequestError, match="temperature"):
        engine.add(make_request("r", [1], temperature=-1.0))
    engine.add(make_request("r", [1]))
    with pytest.raises(InvalidRequestError, match="already"):
        engine.add(make_request("r", [1]))


def test_a_full_queue_refuses() -> None:
    engine, _ = make_engine(max_queue=2, max_running=1)
    for index in range(3):
        engine.add(make_request(f"r{index}", [1], max_tokens=3))
    with pytest.raises(OverloadedError, match="queue is full: 3 sequences wait"):
        engine.add(make_request("r3", [1]))
    drain(engine)
    engine.add(make_request("r3", [1], max_tokens=3))


def test_several_outputs_share_the_prompt_and_differ() -> None:
    engine, _ = make_engine()
    request = make_request("r", prompt_of(40), n=3, temperature=1.0, max_tokens=20)
    outcomes = serve(engine, request)
    for index in range(3):
        assert outcomes["r", index].token_ids == reference_output(engine.spec, request, index)
    assert len({tuple(outcome.token_ids) for outcome in outcomes.values()}) == 3
    assert [outcomes["r", index].deltas[0].num_cached_tokens for index in range(3)] == [0, 32, 32]
    assert engine.stats().prompt_tokens == 40 + 2 * 8


def test_an_aborted_request_is_gone_at_once() -> None:
    engine, _ = make_engine()
    engine.add(make_request("r", prompt_of(40), n=2, **NEVER))
    engine.add(make_request("other", prompt_of(4), max_tokens=5, **NEVER))
    for _ in range(4):
        engine.step()
    engine.abort("r")
    engine.check_integrity()
    assert engine.stats().running == 1
    outcomes: dict[tuple[str, int], Outcome] = {}
    collect(outcomes, engine.step().deltas)
    assert [outcomes["r", index].finish_reason for index in range(2)] == ["abort", "abort"]
    drain(engine)
    assert engine.stats().kv_blocks_used == 0


def test_one_sequence_of_a_request_can_be_aborted() -> None:
    engine, _ = make_engine()
    request = make_request("r", prompt_of(40), n=2, max_tokens=10, **NEVER)
    engine.add(request)
    for _ in range(4):
        engine.step()
    engine.abort("r", 0)
    outcomes = drain(engine)
    assert outcomes["r", 0].finish_reason == "abort"
    assert outcomes["r", 1].finish_reason == "length"


def test_aborting_what_is_unknown_or_finished_does_nothing() -> None:
    engine, _ = make_engine()
    serve(engine, make_request("r", [1], max_tokens=1))
    engine.abort("r")
    engine.abort("nobody", 3)
    assert not engine.has_work()


def test_not_a_number_ends_only_its_own_sequence() -> None:
    engine, _ = make_engine()
    good = make_request("good", prompt_of(20), max_tokens=10)
    outcomes = serve(engine, make_request("bad", [1, NAN_TOKEN]), good)
    assert outcomes["bad", 0].finish_reason == "error"
    assert outcomes["bad", 0].deltas[-1].error
    assert outcomes["bad", 0].token_ids == []
    assert outcomes["good", 0].token_ids == reference_output(engine.spec, good)


def test_a_failing_row_of_a_rejected_draft_token_harms_nobody() -> None:
    request = make_request("r", prompt_of(10), max_tokens=20, **NEVER)
    answer = reference_output(make_engine()[0].spec, request)
    engine, _ = make_engine(drafter=ScriptedDrafter({("r", 0): [*answer[:3], NAN_TOKEN]}))
    assert first(serve(engine, request)).token_ids == answer


def test_tokens_before_a_failing_row_of_an_accepted_draft_are_kept() -> None:
    request = make_request("r", prompt_of(10), max_tokens=20, **NEVER)
    answer = reference_output(make_engine()[0].spec, request)
    last = next(i for i, token in enumerate(answer) if i >= 2 and token not in answer[:i])
    engine, backend = make_engine(drafter=ScriptedDrafter({("r", 0): answer}, length=8))
    backend.poison = {answer[last]}
    outcome = first(serve(engine, request))
    assert (outcome.token_ids, outcome.finish_reason) == (answer[: last + 1], "error")
    assert len(outcome.deltas) == 1 and outcome.deltas[-1].error  # the prompt's step drafts too


@pytest.mark.parametrize("have", [1, 5, 19])
def test_a_resumed_request_continues_identically(have: int) -> None:
    request = make_request("r", prompt_of(20), n=2, temperature=1.0, max_tokens=20, **NEVER)
    engine, _ = make_engine()
    whole = serve(engine, request)
    request.outputs = [whole["r", 0].token_ids[:have], whole["r", 1].token_ids[: have // 2]]
    again = serve(make_engine()[0], request)
    assert again["r", 0].token_ids == whole["r", 0].token_ids[have:]
    assert again["r", 1].token_ids == whole["r", 1].token_ids[have // 2 :]


def test_penalties_count_the_tokens_of_before_a_restart() -> None:
    request = make_request("r", prompt_of(20), max_tokens=20, presence_penalty=2.0, frequency_penalty=1.0, **NEVER)
    whole = first(serve(make_engine()[0], request)).token_ids
    request.outputs = [whole[:9]]
    assert first(serve(make_engine()[0], request)).token_ids == whole[9:]


def test_finished_sequences_are_not_resumed() -> None:
    request = make_request("r", prompt_of(20), n=3, max_tokens=5, finished=[True, False, True], **NEVER)
    assert set(serve(make_engine()[0], request)) == {("r", 1)}
    request.finished = [True] * 3
    engine, _ = make_engine()
    engine.add(request)
    assert not engine.has_work()


def test_resuming_a_sequence_that_was_already_complete_only_ends_it() -> None:
    prompt, output = a_prompt_that_ends()
    stopped = first(serve(make_engine()[0], make_request("r", prompt, outputs=[output])))
    assert (stopped.token_ids, stopped.finish_reason) == ([], "stop")
    full = first(serve(make_engine()[0], make_request("r", prompt, max_tokens=3, outputs=[[1, 2, 3]])))
    assert (full.token_ids, full.finish_reason) == ([], "length")


def test_resuming_a_sequence_that_is_beyond_a_smaller_context_only_ends_it() -> None:
    engine, _ = make_engine(context=64)
    outcome = first(serve(engine, make_request("r", prompt_of(60), outputs=[prompt_of(200, 1)])))
    assert (outcome.token_ids, outcome.finish_reason) == ([], "length")


def test_logprobs_come_with_every_token() -> None:
    engine, _ = make_engine()
    outcome = first(serve(engine, make_request("r", prompt_of(20), max_tokens=5, logprobs=2, **NEVER)))
    for delta in outcome.deltas:
        assert delta.logprobs is not None
        assert [entry.token_id for entry in delta.logprobs] == delta.token_ids
        assert all(len(entry.top_ids) == 2 and entry.rank == 1 for entry in delta.logprobs)


def test_logprobs_do_not_depend_on_drafts() -> None:
    request = make_request("r", prompt_of(20), max_tokens=30, logprobs=1, temperature=1.0, **NEVER)
    plain = first(serve(make_engine()[0], request))
    drafter = ScriptedDrafter({("r", 0): plain.token_ids}, error_rate=0.3)
    drafted = first(serve(make_engine(drafter=drafter)[0], request))
    assert len(drafted.deltas) < len(plain.deltas)
    assert [e for d in drafted.deltas for e in d.logprobs or []] == [e for d in plain.deltas for e in d.logprobs or []]


@pytest.mark.parametrize("max_rows", [8, 64])
def test_prompt_logprobs_are_complete_and_come_once(max_rows: int) -> None:
    engine, _ = make_engine(max_rows=max_rows)
    prompt = prompt_of(100)
    serve(engine, make_request("before", prompt, max_tokens=1))  # a cached prefix must not swallow any
    other = make_request("other", prompt_of(30, 5), max_tokens=30)
    outcomes = serve(engine, make_request("r", prompt, prompt_logprobs=1, n=2, max_tokens=3, **NEVER), other)
    entries = outcomes["r", 0].deltas[0].prompt_logprobs
    assert entries is not None and entries[0] is None
    assert [entry.token_id for entry in entries[1:] if entry is not None] == prompt[1:]
    assert all(entry is not None and math.isfinite(entry.logprob) for entry in entries[1:])
    rest = [*outcomes["r", 0].deltas[1:], *outcomes["r", 1].deltas, *outcomes["other", 0].deltas]
    assert all(delta.prompt_logprobs is None for delta in rest)
    assert outcomes["other", 0].token_ids == reference_output(engine.spec, other)


def test_prompt_logprobs_do_not_depend_on_chunks_or_preemption() -> None:
    prompt = prompt_of(100)
    found = []
    for options in ({"max_rows": 64}, {"max_rows": 7}, {"max_rows": 16, "kv_blocks": 8}):
        engine, _ = make_engine(**options)
        engine.add(make_request("r", prompt, prompt_logprobs=2, max_tokens=8, **NEVER))
        while engine.stats().prompt_tokens < 60:
            assert engine.step().deltas == []
        engine.add(make_request("urgent", prompt_of(60, 1), max_tokens=3, priority=-1, **NEVER))
        found.append(drain(engine)["r", 0].deltas[0].prompt_logprobs)
    assert engine.stats().preemptions > 0
    assert found[0] == found[1] == found[2]


def test_the_first_delta_tells_waiting_time_and_cached_tokens() -> None:
    engine, _ = make_engine()
    request = make_request("a", prompt_of(40), max_tokens=2, **NEVER)
    request.arrival_time = time.time() - 5.0
    outcome = first(serve(engine, request))
    assert 5.0 <= outcome.deltas[0].queue_time <= 15.0
    assert outcome.deltas[0].num_cached_tokens == 0
    assert outcome.deltas[1].queue_time is None
    again = first(serve(engine, make_request("b", prompt_of(40), max_tokens=2, **NEVER)))
    assert again.deltas[0].num_cached_tokens == 32
    assert (engine.stats().prefix_cache_queries, engine.stats().prefix_cache_hits) == (80, 32)


def test_a_conversation_finds_its_own_output_in_the_cache() -> None:
    engine, _ = make_engine()
    prompt = prompt_of(30)
    answer = first(serve(engine, make_request("a", prompt, max_tokens=40, **NEVER))).token_ids
    again = first(serve(engine, make_request("b", prompt + answer + [1, 2], max_tokens=2)))
    assert again.deltas[0].num_cached_tokens == 64


def test_statistics_add_up() -> None:
    engine, _ = make_engine(max_rows=16)
    report = None
    for index in range(3):
        engine.add(make_request(str(index), prompt_of(20, index), max_tokens=10, **NEVER))
    rows = 0
    while engine.has_work():
        report = engine.step()
        rows += report.step_rows
        assert report.step_time > 0
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.generation_tokens) == (60, 30)
    assert stats.rows == rows == 60 + 27
    assert (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)


def test_a_step_without_work_is_empty() -> None:
    engine, _ = make_engine()
    assert not engine.has_work()
    assert engine.step().deltas == []
    assert engine.stats().steps == 0
