"""Sampled text of the default model is that of decoding without drafts, seed by seed, where drafts are chosen, and
where they are drawn with the target's noise. With drawn drafts of their own noise ("exact") only its law is the same
(``tests/speculation`` and ``tests/engine/test_drawn_drafts.py``): here, that real texts come out whole.
"""

from __future__ import annotations

import pytest
from default_model_speculation import Case, Target, serve
from fake_model import Outcome

from paceline.engine.engine import Engine
from paceline.engine.messages import EngineStats, Request, TokenLogprobs
from paceline.sampling.params import SamplingParams
from paceline.speculation.draft_sampling import draw_coupled
from paceline.speculation.options import SpeculationOptions

pytestmark = pytest.mark.model

COUPLED = SpeculationOptions(sampling="coupled")
WAYS: list[dict] = [
    {},
    {"top_p": 0.9, "top_k": 40},
    {"frequency_penalty": 0.4, "presence_penalty": 0.3, "repetition_penalty": 1.1},
    {"min_p": 0.08},
    {"logit_bias": {28: -3.0, 198: 2.0, 30: 1.5}},
    {"n": 3, "top_p": 0.95},
    {"typical_p": 0.9, "bad_words_ids": ((28,), (30, 198))},
    {"min_tokens": 20, "stop_token_ids": (198,)},
]


@pytest.fixture(scope="module")
def cases(target: Target) -> list[Case]:
    return target.cases("edit", 10, 200) + target.cases("chat", 8, 150) + target.cases("translation", 6, 150)


def sampled(cases: list[Case], **params: object) -> list[Request]:
    """Every way with three prompts, each with its own seed."""
    ways = [{**WAYS[i % len(WAYS)], "temperature": 0.8, "seed": 100 + i, "max_tokens": 28} for i in range(len(cases))]
    return [case.request(**{**way, **params}) for case, way in zip(cases, ways, strict=True)]


def texts_of(outcomes: dict[tuple[str, int], Outcome]) -> dict[tuple[str, int], tuple]:
    return {key: (outcome.token_ids, outcome.finish_reason, logprobs_of(outcome)) for key, outcome in outcomes.items()}


def logprobs_of(outcome: Outcome) -> list[TokenLogprobs]:
    return [entry for delta in outcome.deltas for entry in delta.logprobs or ()]


def check_drafts(stats: EngineStats, *names: str) -> None:
    """Each drafter's drafts were verified, some accepted and some refused."""
    found = {counters.drafter: counters for counters in stats.drafters}
    assert set(found) == set(names)
    for counters in found.values():
        assert 0 < counters.accepted_tokens < counters.draft_tokens


def test_chosen_drafts_leave_every_text_of_every_seed_as_it_is(target: Target, cases: list[Case]) -> None:
    requests = sampled(cases, logprobs=2)
    expected = texts_of(serve(target.engine(), requests))
    assert len(expected) == 30 and len({tuple(tokens) for tokens, *_ in expected.values()}) > 25
    drafters = target.drafters("suffix", "ngram")
    engine = target.engine(drafters.controller())
    for _ in range(2):  # the second time, the answers of the first are known
        assert texts_of(serve(engine, requests)) == expected
    drafters.check_nothing_is_kept()
    check_drafts(engine.stats(), "suffix", "ngram")


def test_a_choice_is_drawn_as_without_drafts(target: Target) -> None:
    requests = [
        case.request(seed=i, n=2, temperature=1.5, max_tokens=200) for i, case in enumerate(target.choice_cases(8))
    ]
    expected = texts_of(serve(target.engine(), requests))
    drafters = target.drafters("grammar", "suffix")
    engine = target.engine(drafters.controller())
    for _ in range(2):
        assert texts_of(serve(engine, requests)) == expected
    assert engine.stats().accepted_tokens > 100
    answers = {(request.request_id, answer) for request in requests for answer in request.params.choice_ids}
    assert {(name, tuple(tokens)) for (name, _), (tokens, *_) in expected.items()} <= answers


def test_coupled_text_depends_on_the_seed_alone_whoever_draws(target: Target, cases: list[Case]) -> None:
    requests = sampled(cases[:8], logprobs=1)
    expected = texts_of(serve(target.engine(speculation=COUPLED), requests))
    assert expected != texts_of(serve(target.engine(), requests)), "coupled noise is noise of another kind"
    for names in (("model",), ("suffix", "model")):
        drafters = target.drafters(*names, draw=draw_coupled)
        engine = target.engine(drafters.controller(), speculation=COUPLED)
        assert texts_of(serve(engine, requests)) == expected
        drafters.check_nothing_is_kept()
        check_drafts(engine.stats(), *names)


def drawn_engine(target: Target) -> Engine:
    return target.engine(target.drafters("model").controller())


def test_drawn_drafts_of_their_own_noise_give_whole_texts_with_their_logprobs(
    target: Target, cases: list[Case]
) -> None:
    requests = sampled(cases[:8], logprobs=0, ignore_eos=True, stop_token_ids=(), min_tokens=0)
    engine = drawn_engine(target)
    outcomes = serve(engine, requests)
    check_drafts(engine.stats(), "model")
    assert {outcome.finish_reason for outcome in outcomes.values()} == {"length"}
    assert {len(outcome.token_ids) for outcome in outcomes.values()} == {28}
    scored = [scoring(request, index, outcomes) for request in requests for index in range(request.params.n)]
    for read in serve(target.engine(), scored).values():
        entries = read.deltas[0].prompt_logprobs
        assert entries is not None
        name, _, index = read.deltas[0].request_id.rpartition(":")
        written = logprobs_of(outcomes[name, int(index)])
        assert [entry.token_id for entry in written] == outcomes[name, int(index)].token_ids
        expected = [entry.logprob for entry in entries[-len(written) :] if entry is not None]
        assert [entry.logprob for entry in written] == pytest.approx(expected, abs=1e-5)


def scoring(request: Request, index: int, outcomes: dict[tuple[str, int], Outcome]) -> Request:
    """Reads what was written, for the logprob of each of its tokens."""
    return Request(
        request_id=f"{request.request_id}:{index}",
        prompt_ids=[*request.prompt_ids, *outcomes[request.request_id, index].token_ids],
        params=SamplingParams(temperature=0.0, seed=1, max_tokens=1, prompt_logprobs=0),
        arrival_time=0.0,
    )


def test_the_same_requests_with_drawn_drafts_give_the_same_texts_again(target: Target, cases: list[Case]) -> None:
    requests = sampled(cases[:8])
    first, second = (texts_of(serve(drawn_engine(target), requests)) for _ in range(2))
    assert first == second
    assert first != texts_of(serve(drawn_engine(target), sampled(cases[:8], seed=5)))
