"""Drawn drafts in the engine: law, logprobs, errors and seeds are those of decoding without them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence as Seq

import numpy as np
import pytest
import torch
from fake_model import (
    NAN_TOKEN,
    VOCAB,
    Reference,
    drain,
    fake_spec,
    make_engine,
    make_request,
    prompt_of,
    reference_output,
    serve,
)

from paceline.engine.messages import Request
from paceline.engine.sequence import Sequence
from paceline.sampling.sampler import NOT_FINITE, Sampler, SampleRow
from paceline.sampling.state import SamplingState
from paceline.speculation.draft import Distribution, Draft
from paceline.speculation.drafters.base import Progress
from paceline.speculation.noise import StepNoise
from paceline.speculation.options import SpeculationOptions

COUPLED = SpeculationOptions(sampling="coupled")


def next_logits(tokens: Seq[int]) -> torch.Tensor:
    model = Reference(fake_spec().cache_spec())
    for token in tokens:
        logits = model.next_logits(token)
    return logits


class DrawingDrafter:
    """Draws from a flattened and truncated copy of the target, chains or trees of two branches."""

    name = "drawing"
    cheap = False
    layers = ()

    def __init__(self, shape: str = "chain", length: int = 3, coupled: bool = False) -> None:
        self.shape, self.length, self.coupled = shape, length, coupled
        self.offered = 0

    def propose(self, sequences: Seq[Sequence], lengths: Seq[int]) -> list[Draft | None]:
        return [self.draft(sequence) for sequence in sequences]

    def draft(self, sequence: Sequence) -> Draft:
        noise = StepNoise(sequence.seed, sequence.index, sequence.length)
        known = tuple(sequence.token_ids.tolist())
        tokens: list[int] = []
        parents: list[int] = []
        distributions: list[Distribution] = []
        branches: list[tuple[int, tuple[int, ...]]] = [(-1, ())]
        while branches and len(tokens) < self.length:
            parent, path = branches.pop(0)
            q = self.q((*known, *path))
            count = 2 if self.shape == "tree" else 1
            drawn = noise.draw_coupled(len(path), q, count) if self.coupled else noise.draw(len(tokens), q, count)
            for token in drawn:
                branches.append((len(tokens), (*path, token)))
                tokens.append(token)
                parents.append(parent)
                distributions.append(q)
        self.offered += 1
        shape = tuple(parents) if self.shape == "tree" else None
        return Draft(tuple(tokens), self.name, shape, distributions=tuple(distributions))

    def q(self, context: Seq[int]) -> Distribution:
        values, ids = next_logits(context).double().topk(4)
        order = ids.argsort()
        return ids[order].numpy(), values[order].mul(0.5).softmax(0).numpy()

    def observe(self, progress: Seq[Progress]) -> None:
        pass

    def forget(self, sequence: Sequence) -> None:
        pass


def sampled_request(name: str = "r", **params: object) -> Request:
    params = {"temperature": 1.0, "seed": 3, "max_tokens": 20, "ignore_eos": True, **params}
    return make_request(name, prompt_of(6, 1), **params)


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_texts_follow_the_target_s_law(shape: str) -> None:
    """Three tokens, two of which can stand at each place, over many sequences."""
    counts: Counter[tuple[int, ...]] = Counter()
    params = {"top_k": 2, "temperature": 1.3, "presence_penalty": 0.5, "max_tokens": 3}
    engine, _ = make_engine(drafter=DrawingDrafter(shape), kv_blocks=400, max_running=64, max_queue=1000)
    requests = [sampled_request(f"r{i}", seed=i, n=64, **params) for i in range(8)]
    texts = serve_all(engine, requests)
    counts.update(texts)
    law = exact_law(requests[0], 3)
    assert set(counts) <= set(law)
    expected = {key: p * len(texts) for key, p in law.items()}
    assert len(texts) == 512
    assert sum((counts[key] - e) ** 2 / e for key, e in expected.items()) < 7 + 4 * math.sqrt(14)


def serve_all(engine: object, requests: Seq[Request]) -> list[tuple[int, ...]]:
    for request in requests:
        engine.add(request)
    return [tuple(outcome.token_ids) for outcome in drain(engine, check=False).values()]


def exact_law(request: Request, length: int) -> dict[tuple[int, ...], float]:
    law: dict[tuple[int, ...], float] = {(): 1.0}
    sampler = Sampler(VOCAB)
    for _ in range(length):
        longer: dict[tuple[int, ...], float] = {}
        for tokens, probability in law.items():
            state = SamplingState(request.params, prompt_ids=request.prompt_ids, output_ids=tokens, vocab_size=VOCAB)
            ids, p = sampler.distribution(next_logits([*request.prompt_ids, *tokens]).numpy(), SampleRow(state))
            longer |= {(*tokens, int(i)): probability * float(x) for i, x in zip(ids, p, strict=True)}
        law = longer
    return law


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_company_and_chunks_do_not_change_a_text(shape: str) -> None:
    requests = [sampled_request(f"r{i}", seed=i, n=2) for i in range(4)]
    texts = []
    for options in ({}, {"max_running": 1}, {"prefix_cache": False}):
        engine, _ = make_engine(drafter=DrawingDrafter(shape), **options)
        texts.append({key: outcome.token_ids for key, outcome in serve(engine, *requests).items()})
    assert texts[0] == texts[1] == texts[2]
    assert len({tuple(tokens) for tokens in texts[0].values()}) == 8


def test_coupled_text_is_the_same_after_a_restart_and_preemption() -> None:
    """In "exact" mode only the law is: whether a step has a draft may differ, and it decides which numbers are used."""
    drafter = DrawingDrafter(coupled=True)
    requests = [sampled_request(f"r{i}", seed=i, max_tokens=40) for i in range(4)]
    engine, _ = make_engine(drafter=drafter, speculation=COUPLED)
    whole = {key: outcome.token_ids for key, outcome in serve(engine, *requests).items()}
    crowded, _ = make_engine(drafter=drafter, speculation=COUPLED, kv_blocks=8)
    assert {key: outcome.token_ids for key, outcome in serve(crowded, *requests).items()} == whole
    for count in (1, 7, 30):
        done = whole["r2", 0][:count]
        resumed, _ = make_engine(drafter=drafter, speculation=COUPLED)
        again = serve(resumed, sampled_request("r2", seed=2, max_tokens=40, outputs=[done]))
        assert done + again["r2", 0].token_ids == whole["r2", 0]


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_greedy_text_is_what_it_is_without_drafts(shape: str) -> None:
    request = sampled_request(temperature=0.0)
    drafter = DrawingDrafter(shape)
    engine, _ = make_engine(drafter=drafter)
    assert serve(engine, request)["r", 0].token_ids == reference_output(fake_spec(), request)
    assert drafter.offered < 20  # some were accepted


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_coupled_text_is_what_it_is_without_drafts(shape: str) -> None:
    requests = [sampled_request(f"r{i}", seed=i, temperature=0.8, frequency_penalty=0.3) for i in range(6)]
    plain, _ = make_engine(speculation=COUPLED)
    drafter = DrawingDrafter(shape, coupled=True)
    drafted, _ = make_engine(drafter=drafter, speculation=COUPLED)
    expected = {key: outcome.token_ids for key, outcome in serve(plain, *requests).items()}
    assert {key: outcome.token_ids for key, outcome in serve(drafted, *requests).items()} == expected
    assert drafter.offered < 6 * 20 * 0.8
    assert expected["r0", 0] != reference_output(fake_spec(), requests[0])  # noise of another kind


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_every_token_has_its_raw_logprob(shape: str, coupled: bool) -> None:
    drafter = DrawingDrafter(shape, coupled=coupled)
    engine, _ = make_engine(drafter=drafter, speculation=COUPLED if coupled else SpeculationOptions())
    requests = [sampled_request(logprobs=2, temperature=0.7), sampled_request("other", logprobs=None, seed=4)]
    outcomes = serve(engine, *requests)
    assert drafter.offered < 2 * 20
    outcome = outcomes["r", 0]
    entries = [entry for delta in outcome.deltas for entry in delta.logprobs]
    context = list(requests[0].prompt_ids)
    for token, entry in zip(outcome.token_ids, entries, strict=True):
        expected = next_logits(context).double().log_softmax(0)
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(float(expected[token]), abs=1e-5)
        assert entry.top_ids == expected.argsort(descending=True, stable=True)[:2].tolist()
        context.append(token)
    assert not any(delta.logprobs for delta in outcomes["other", 0].deltas)


class PoisonDrafter(DrawingDrafter):
    """Draws tokens of which one makes the model's next row NaN."""

    def q(self, context: Seq[int]) -> Distribution:
        ids, p = super().q(context) if NAN_TOKEN not in context else (np.arange(4), np.full(4, 0.25))
        ids, p = np.append(ids, NAN_TOKEN), np.append(0.5 * p, 0.5)
        order = ids.argsort()
        return ids[order], p[order]


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_nan_in_a_refused_row_is_nobody_s_business(shape: str) -> None:
    outcome = serve(make_engine(drafter=PoisonDrafter(shape))[0], sampled_request())["r", 0]
    assert outcome.finish_reason == "length"
    assert len(outcome.token_ids) == 20


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_nan_behind_an_accepted_token_ends_the_text_with_an_error(shape: str) -> None:
    drafter = DrawingDrafter(shape)
    engine, backend = make_engine(drafter=drafter)
    usual = serve(engine, sampled_request())["r", 0]
    poison = next(delta.token_ids[0] for delta in usual.deltas if len(delta.token_ids) > 1)
    engine, backend = make_engine(drafter=DrawingDrafter(shape))
    backend.poison = {poison}
    outcome = serve(engine, sampled_request())["r", 0]
    assert outcome.finish_reason == "error"
    assert outcome.deltas[-1].error == NOT_FINITE
    end = usual.token_ids.index(poison)
    assert outcome.token_ids == usual.token_ids[: end + 1]
