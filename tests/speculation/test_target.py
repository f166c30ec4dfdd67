"""Target rows: the distribution that rules see has every parameter in it, drafts before it counted as emitted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy_models import Context, Decisions, Law, TreeBuilder, chain, distance

from paceline.sampling.params import SamplingParams
from paceline.sampling.sampler import NOT_FINITE, NOTHING_LEFT, Sampler, SampleRow
from paceline.sampling.state import SamplingState
from paceline.speculation.draft import Distribution, Draft
from paceline.speculation.noise import StepNoise
from paceline.speculation.target import SampledRows, TargetRows
from paceline.speculation.verify import rule_of, verify

VOCAB = 4
PROMPT: Context = (0, 1)
SAMPLER = Sampler(VOCAB)

PARAMS = {
    "plain": SamplingParams(seed=1),
    "penalties": SamplingParams(
        seed=1, presence_penalty=0.7, frequency_penalty=0.4, repetition_penalty=1.3, temperature=0.8
    ),
    "min_p": SamplingParams(seed=1, min_p=0.3),
    "top_k": SamplingParams(seed=1, top_k=2, temperature=1.5),
    "logit_bias": SamplingParams(seed=1, logit_bias={3: 2.0, 0: -1.0}),
    "bad words": SamplingParams(seed=1, bad_words_ids=((2,), (3, 0), (1, 1))),
    "min_tokens": SamplingParams(seed=1, min_tokens=2),
    "everything": SamplingParams(
        seed=1, temperature=1.2, top_k=3, top_p=0.95, min_p=0.05, typical_p=0.98, presence_penalty=0.3,
        repetition_penalty=1.1, logit_bias={2: 1.0}, bad_words_ids=((1, 2), (3, 3, 0)), min_tokens=2,
    ),
}  # fmt: skip


class LogitModel:
    """Logits that depend on the last two tokens; as a draft model it knows nothing of the request's parameters."""

    vocab = VOCAB

    def logits(self, context: Context) -> torch.Tensor:
        generator = torch.Generator().manual_seed(11 + context[-1] + VOCAB * context[-2])
        return torch.randn(VOCAB, generator=generator) * 1.5

    def q(self, context: Context) -> Distribution:
        return np.arange(VOCAB), self.logits(context).double().mul(0.7).softmax(0).numpy()


MODEL = LogitModel()


def state_of(params: SamplingParams, output: Context = ()) -> SamplingState:
    return SamplingState(params, prompt_ids=PROMPT, output_ids=output, vocab_size=VOCAB, eos_ids=(3,))


def target_of(params: SamplingParams, draft: Draft, output: Context = ()) -> TargetRows:
    state = state_of(params, output)
    paths: list[Context] = [()]
    for i, token in enumerate(draft.token_ids):
        parent = i - 1 if draft.parents is None else draft.parents[i]
        paths.append((*paths[parent + 1], token))
    logits = torch.stack([MODEL.logits((*PROMPT, *output, *path)) for path in paths])
    return TargetRows(SAMPLER, logits, [SampleRow(state, path, deferred=True) for path in paths])


def true_law(params: SamplingParams, beginnings: Law, length: int) -> Law:
    """Beginnings go on as the sampler draws without drafts, every token committed before the next."""
    result: Law = {}
    for tokens, probability in beginnings.items():
        if len(tokens) >= length:
            result[tokens[:length]] = result.get(tokens[:length], 0.0) + probability
            continue
        raw = MODEL.logits((*PROMPT, *tokens)).numpy()
        ids, p = SAMPLER.distribution(raw, SampleRow(state_of(params, tokens)))
        going_on = {(*tokens, int(i)): probability * float(x) for i, x in zip(ids, p, strict=True)}
        for key, value in true_law(params, going_on, length).items():
            result[key] = result.get(key, 0.0) + value
    return result


def small_tree(model: LogitModel, context: Context, noise: StepNoise) -> Draft:
    tree = TreeBuilder(model, context, noise)
    for node in tree.draw(-1, 2):
        tree.draw(node, 1)
    return tree.draft()


@pytest.mark.parametrize("drafting", [chain(2), small_tree])
@pytest.mark.parametrize("name", PARAMS)
def test_what_a_step_emits_has_the_law_of_plain_decoding(name: str, drafting: object) -> None:
    law: Law = {}
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        decisions = Decisions(scripts.pop())
        draft = drafting(MODEL, PROMPT, decisions)
        target = target_of(PARAMS[name], draft)
        target.noise = decisions
        tokens = tuple(rule_of(draft)(draft, target).token_ids)
        law[tokens] = law.get(tokens, 0.0) + decisions.probability
        scripts += decisions.others
    assert distance(true_law(PARAMS[name], law, 3), true_law(PARAMS[name], {(): 1.0}, 3)) < 1e-7


def test_noise_is_that_of_the_sequence_and_the_step() -> None:
    target = target_of(SamplingParams(seed=5), Draft((1,), "toy"), output=(2, 3))
    assert target.noise == StepNoise(seed=5, index=0, position=4)


def test_logprobs_are_those_of_the_raw_distribution_along_the_path() -> None:
    params = SamplingParams(seed=3, logprobs=2, top_k=2, logit_bias={1: 3.0})
    draft = small_tree(MODEL, PROMPT, StepNoise(3, 0, 2))
    target = target_of(params, draft)
    outcome = rule_of(draft)(draft, target)
    context = PROMPT
    for token, entry in zip(outcome.token_ids, target.logprobs(outcome), strict=True):
        expected = MODEL.logits(context).double().log_softmax(0)
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(float(expected[token]), abs=1e-6)
        assert entry.top_ids == expected.argsort(descending=True)[:2].tolist()
        context = (*context, token)


@pytest.mark.parametrize(
    ("params", "value", "message"),
    [
        (SamplingParams(seed=1, logprobs=1), math.nan, NOT_FINITE),
        (SamplingParams(seed=1, logprobs=1), -math.inf, NOTHING_LEFT),
    ],
)
def test_a_row_without_a_distribution_says_why(params: SamplingParams, value: float, message: str) -> None:
    one = (np.array([2]), np.ones(1))
    draft = Draft((2,), "toy", distributions=(one,))
    logits = torch.zeros(2, VOCAB)
    logits[0, 2], logits[1] = 1e4, value
    state = state_of(params)
    rows = [SampleRow(state, (), True), SampleRow(state, (2,), True)]
    target = TargetRows(SAMPLER, logits, rows)
    sampled = SAMPLER.sample(logits, rows)
    assert (sampled.token_ids, sampled.errors) == ([-1, -1], {})  # deferred rows are not looked at
    outcome = verify(sampled.token_ids, [0, 2], [draft], {0: target})[0]
    assert outcome.token_ids == [2, -1]
    assert target.errors == {1: message}
    assert [entry.token_id for entry in target.logprobs(outcome)] == [2]


def sampled_rows(params: SamplingParams, logits: torch.Tensor, draft: tuple[int, ...]) -> tuple[SampledRows, Sampler]:
    sampler = Sampler(VOCAB)
    state = SamplingState(params, prompt_ids=PROMPT, vocab_size=VOCAB)
    rows = [SampleRow(state, draft[:count]) for count in range(len(draft) + 1)]
    return SampledRows(sampler, logits, rows), sampler


@pytest.mark.parametrize("name", PARAMS)
def test_rows_sampled_when_looked_at_are_those_sampled_together(name: str) -> None:
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(3))
    rows, sampler = sampled_rows(PARAMS[name], logits, (2, 3, 0))
    together = sampler.sample(logits, rows._rows).token_ids
    assert [rows[i] for i in (2, 0, 3, 1)] == [together[i] for i in (2, 0, 3, 1)]


def test_rows_behind_the_first_refused_token_are_not_sampled() -> None:
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(3))
    rows, sampler = sampled_rows(PARAMS["plain"], logits, (0, 0, 0))
    wrong = tuple((rows[0] + 1) % VOCAB for _ in range(3))
    looked = []
    sample = sampler.sample
    sampler.sample = lambda *args: looked.append(args) or sample(*args)  # type: ignore[method-assign]
    rows._tokens.clear()
    (outcome,) = verify([-1] * 4, [0, 4], [Draft(wrong, "test")], {0: rows})
    assert len(outcome.token_ids) == 1 and len(looked) == 1


def test_a_row_without_a_token_matters_only_where_the_walk_goes() -> None:
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(3))
    logits[1] = math.nan
    rows, _ = sampled_rows(PARAMS["plain"], logits, (0, 0))
    first = rows[0]
    (accepted,) = verify([-1] * 3, [0, 3], [Draft((first, 1), "test")], {0: rows})
    assert accepted.token_ids == [first, -1] and rows.errors == {1: NOT_FINITE}
    (refused,) = verify([-1] * 3, [0, 3], [Draft(((first + 1) % VOCAB, 1), "test")], {0: rows})
    assert refused.token_ids == [first]
