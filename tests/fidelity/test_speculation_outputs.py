"""``paceline.LLM`` with speculation on and off: outputs are equal field by field.

Logprobs and prompt logprobs to the last bit; stop strings, stop tokens, ends of sequence, ``min_tokens`` and
``max_tokens`` where a draft runs over the place. Everything is asked twice: the second time the suffix drafter knows
the answers. Once with the controller that users get, once with one that verifies every draft.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

import pytest
from default_model_speculation import Drafters, Target

from paceline import LLM, SpeculationOptions
from paceline.engine.output import RequestOutput
from paceline.sampling.params import SamplingParams
from paceline.speculation.controller import Controller
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import SequenceView

pytestmark = pytest.mark.model

LIST = "apples, pears, plums, cherries, grapes, lemons, oranges, melons and peaches"
COPY = f"Repeat this sentence word for word: We buy {LIST}."
PLACE = "cherries, grapes"  # in the middle of what is copied
SHORT = "What is the capital of France? Answer with one word."
LIMITS: dict[str, Any] = {"threads": 2, "kv_blocks": 200}


class Remembering(Drafters):
    """Remembers every draft that was verified or might have been."""

    proposed: list[tuple[int, ...]]

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        drafts = super().propose(sequences, lengths)
        self.proposed += [draft.token_ids for draft in drafts if draft is not None]
        return drafts


@pytest.fixture(scope="module")
def off(default_model) -> Iterator[LLM]:
    with LLM(speculation=SpeculationOptions(speculate="off"), **LIMITS) as llm:
        assert llm.info.drafters == []
        yield llm


@pytest.fixture(scope="module")
def on(default_model) -> Iterator[LLM]:
    with LLM(**LIMITS) as llm:
        yield llm


@pytest.fixture(params=["the default controller", "every draft"])
def drafting(request: pytest.FixtureRequest, on: LLM, target: Target) -> Iterator[LLM]:
    """The engine that speculates, with one controller or the other."""
    slot = on._engine.drafting
    assert slot is not None and type(slot.controller) is Controller
    default = slot.controller
    if request.param == "every draft":
        drafters = Remembering(target.drafters("grammar", "suffix", "ngram").drafters)
        drafters.proposed = []
        slot.controller = drafters.controller()
    yield on
    slot.controller = default


def proposed(llm: LLM) -> list[tuple[int, ...]]:
    """Drafts so far, where every draft is verified."""
    controller = llm._engine.drafting.controller
    return [] if isinstance(controller, Controller) else controller.drafter.proposed


def ids(llm: LLM, text: str) -> list[int]:
    return llm.chat_prompt_ids([{"role": "user", "content": text}])


def fields(output: RequestOutput) -> RequestOutput:
    """What must not depend on speculation: all but names, times, and what the cache happened to hold."""
    return replace(output, request_id="", queue_time=None, num_cached_tokens=0)


def same(off: LLM, drafting: LLM, prompt: str, params: SamplingParams) -> RequestOutput:
    """Asserts that both give the same, twice; that it drafted for it; gives the output."""
    (expected,) = off.generate(ids(off, prompt), params)
    before = drafting.stats.accepted_tokens
    for _ in range(2):
        (output,) = drafting.generate(ids(drafting, prompt), params)
        assert fields(output) == fields(expected)
    if proposed(drafting):
        assert drafting.stats.accepted_tokens > before
    assert not list(drafting._engine.live) and drafting.stats.kv_blocks_used == 0
    return expected


def test_logprobs_and_prompt_logprobs_are_equal_to_the_last_bit(off: LLM, drafting: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=40, logprobs=4, prompt_logprobs=3, seed=1)
    output = same(off, drafting, COPY, params)
    (sequence,) = output.outputs
    assert sequence.logprobs is not None and output.prompt_logprobs is not None
    assert len(sequence.logprobs) == len(sequence.token_ids) > 20
    assert len(output.prompt_logprobs) == len(output.prompt_ids)


def test_sampled_sequences_of_one_request_are_equal(off: LLM, drafting: LLM) -> None:
    params = SamplingParams(temperature=0.7, top_p=0.95, n=3, max_tokens=40, logprobs=1, seed=4, min_p=0.01)
    output = same(off, drafting, COPY, params)
    assert len({tuple(sequence.token_ids) for sequence in output.outputs}) > 1


@pytest.mark.parametrize("included", [False, True])
def test_a_stop_string_inside_a_draft_ends_the_text_there(included: bool, off: LLM, drafting: LLM) -> None:
    params = SamplingParams(
        temperature=0.0, max_tokens=60, stop=(PLACE,), include_stop_str_in_output=included, logprobs=0, seed=1
    )
    (sequence,) = same(off, drafting, COPY, params).outputs
    assert (sequence.finish_reason, sequence.stop_reason) == ("stop", PLACE)
    assert sequence.text.endswith(PLACE) == included and (PLACE in sequence.text) == included
    texts = [drafting.tokenizer.decode(list(draft)) for draft in proposed(drafting)]
    assert not texts or any(PLACE in text and not text.endswith(PLACE) for text in texts)


def test_a_stop_token_inside_a_draft_ends_the_text_there(off: LLM, drafting: LLM) -> None:
    (whole,) = same(off, drafting, COPY, SamplingParams(temperature=0.0, max_tokens=40, seed=1)).outputs
    token = next(token for token in whole.token_ids[8:] if whole.token_ids.count(token) == 1)
    params = SamplingParams(temperature=0.0, max_tokens=40, stop_token_ids=(token,), logprobs=0, seed=1)
    (sequence,) = same(off, drafting, COPY, params).outputs
    assert (sequence.finish_reason, sequence.stop_reason) == ("stop", token)
    assert sequence.token_ids == whole.token_ids[: whole.token_ids.index(token) + 1]
    drafts = proposed(drafting)
    assert not drafts or any(token in draft[:-1] for draft in drafts)


def test_an_end_of_sequence_inside_a_draft_ends_the_text_there(off: LLM, drafting: LLM) -> None:
    """Behind the first text, which ignores its end, a draft knows how it would go on."""
    beyond = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, seed=1)
    (whole,) = same(off, drafting, SHORT, beyond).outputs
    (sequence,) = same(off, drafting, SHORT, SamplingParams(temperature=0.0, max_tokens=24, seed=1)).outputs
    assert (sequence.finish_reason, sequence.stop_reason) == ("stop", None)
    assert sequence.token_ids == whole.token_ids[: len(sequence.token_ids)]
    (end,) = {sequence.token_ids[-1]} & drafting._engine.eos_ids
    assert end not in sequence.token_ids[:-1]
    drafts = proposed(drafting)
    assert not drafts or any(end in draft[:-1] for draft in drafts)


def test_ends_before_the_least_number_of_tokens_do_not_count(off: LLM, drafting: LLM) -> None:
    (early,) = same(off, drafting, SHORT, SamplingParams(temperature=0.0, max_tokens=24, seed=1)).outputs
    least = len(early.token_ids) + 5
    params = SamplingParams(temperature=0.0, max_tokens=24, min_tokens=least, logprobs=2, seed=1)
    (sequence,) = same(off, drafting, SHORT, params).outputs
    assert len(sequence.token_ids) >= least
    assert not set(sequence.token_ids[: least - 1]) & drafting._engine.eos_ids


@pytest.mark.parametrize("most", [1, 2, 7, 15])
def test_a_draft_never_goes_over_the_most_tokens(most: int, off: LLM, drafting: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=most, prompt_logprobs=0, logprobs=0, seed=1)
    (expected,) = off.generate(ids(off, COPY), params)
    for _ in range(2):
        (output,) = drafting.generate(ids(drafting, COPY), params)
        assert fields(output) == fields(expected)
    assert len(expected.outputs[0].token_ids) == most and expected.outputs[0].finish_reason == "length"


def test_choices_bad_words_and_special_tokens_are_equal(off: LLM, drafting: LLM) -> None:
    answers = ("the bill was never paid", "the bill was paid late", "the till was full")
    chosen = same(off, drafting, "What happened?", SamplingParams(temperature=0.0, choice=answers, logprobs=2, seed=1))
    assert chosen.outputs[0].text in answers and chosen.outputs[0].finish_reason == "stop"
    words = SamplingParams(temperature=0.0, max_tokens=40, bad_words=("plums", " oranges"), seed=1)
    assert "oranges" not in same(off, drafting, COPY, words).outputs[0].text
    special = SamplingParams(temperature=0.0, max_tokens=60, skip_special_tokens=False, ignore_eos=True, seed=1)
    assert "<|im_end|>" in same(off, drafting, COPY, special).outputs[0].text


def test_a_stream_gives_the_same_text_in_fewer_pieces(off: LLM, drafting: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=40, logprobs=1, seed=1)
    expected = list(off.generate_stream(ids(off, COPY), params))
    drafting.generate(ids(drafting, COPY), params)
    parts = list(drafting.generate_stream(ids(drafting, COPY), params))
    for name in ("token_ids", "logprobs", "text_offsets"):
        whole = [item for part in expected for item in getattr(part, name)]
        assert [item for part in parts for item in getattr(part, name)] == whole
    assert "".join(part.text for part in parts) == "".join(part.text for part in expected)
    assert len(parts) < len(expected) - 5


def test_a_closed_stream_leaves_nothing(drafting: LLM) -> None:
    # One piece of a text far longer than any draft: a remembered text may otherwise be whole in the first pieces.
    params = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True, seed=1)
    stream = drafting.generate_stream(ids(drafting, COPY), params)
    assert next(stream).finish_reason is None
    assert drafting.stats.running == 1
    stream.close()
    assert drafting.stats.running == 0 and drafting.stats.kv_blocks_used == 0
    controller = drafting._engine.drafting.controller
    if isinstance(controller, Controller):
        assert not controller._tracks
    else:
        controller.drafter.check_nothing_is_kept()


def test_the_default_controller_drafts_for_such_texts(off: LLM, on: LLM) -> None:
    """It decides by measured costs: some drafts are worth their rows on any machine."""
    same(off, on, COPY, SamplingParams(temperature=0.0, max_tokens=60, seed=1))
    same(off, on, "Which?", SamplingParams(temperature=0.0, choice=(LIST, COPY), seed=1))
    by_name = {counters.drafter: counters.accepted_tokens for counters in on.stats.drafters}
    assert by_name["suffix"] > 10 and by_name["grammar"] > 0
