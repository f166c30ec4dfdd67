"""The turbo drafter in the engine: texts never change, greedy or sampled, whatever happens to states on their way."""

from __future__ import annotations

import pytest
from fake_model import drain, serve
from test_engine_backends import Case, prompt_of, requests

from paceline.engine.messages import Request
from paceline.sampling.params import SamplingParams
from paceline.speculation.drafters.turbo import TurboDrafter
from paceline.speculation.drafters.turbo_model import lay_out
from turbo_models import random_tensors, tensors_for_text, tiny_config


@pytest.fixture(scope="module", params=["torch", "cpu"])
def case(request: pytest.FixtureRequest, tiny_checkpoint) -> Case:
    return Case(request.param, tiny_checkpoint("gemma3_text"))


def make_drafter(case: Case, text: list[int] | None = None, **options: object) -> TurboDrafter:
    """A random speculator of four positions; with ``text``, one that proposes what follows each token there."""
    config = tiny_config(case.model, vocab_size=60, markov_rank=60)
    tensors = random_tensors(config) if text is None else tensors_for_text(config, text)
    own = case.backend.sibling()
    model = lay_out(config, tensors, case.model.weights.embedding, own, "q8" if case.backend.name == "cpu" else "f32")
    return TurboDrafter(model, own, **{"max_sequences": 8, "max_tokens": 128, **options})


CONFIGS = [{}, {"kv_blocks": 8, "max_rows": 24}, {"prefix_cache": False, "max_rows": 7}, {"max_running": 1}]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("good", [False, True])
def test_texts_are_those_without_drafts(case: Case, config: dict, good: bool) -> None:
    drafter = make_drafter(case, case.answers["greedy", 0] if good else None)
    engine = case.engine(drafter, **config)
    assert case.texts(engine) == case.answers
    stats = engine.stats()
    assert stats.draft_tokens > 20
    assert (stats.accepted_tokens > 9) == good
    if "kv_blocks" in config:
        assert stats.preemptions > 0
    drafter.check_integrity()
    assert not drafter._tracks.tracks, "finished sequences leave nothing"


def test_a_prompt_from_the_prefix_cache_is_drafted_for_at_once(case: Case) -> None:
    prompt = prompt_of(70, 9)
    request = Request(request_id="r", prompt_ids=prompt, params=SamplingParams(seed=1, max_tokens=8), arrival_time=0.0)
    drafter = make_drafter(case)
    engine = case.engine(drafter)
    first = serve(engine, request)
    drafts = engine.stats().decisions["turbo"]
    again = serve(engine, request)
    assert again["r", 0].token_ids == first["r", 0].token_ids
    assert engine.stats().decisions["turbo"] - drafts >= 4, "trees of other contexts; some have nothing to say"
    assert engine.stats().prefix_cache_hits >= 64


def test_aborted_sequences_leave_nothing(case: Case) -> None:
    drafter = make_drafter(case)
    engine = case.engine(drafter)
    for request in requests():
        engine.add(request)
    for _ in range(4):
        engine.step()
    engine.abort("sampled")
    drain(engine)
    assert not drafter._tracks.tracks
    drafter.check_integrity()
