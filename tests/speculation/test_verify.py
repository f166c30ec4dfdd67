"""Verification by comparing: which tokens and rows stand, and that drafts never show in the text."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.sampling.params import SamplingParams
from paceline.sampling.sampler import Sampler, SampleRow
from paceline.sampling.state import SamplingState
from paceline.speculation.draft import Distribution, Draft
from paceline.speculation.noise import StepNoise
from paceline.speculation.verify import Verified, match_sampled, needs_target, rule_of, verify
from paceline.speculation.verify_block import verify_block
from paceline.speculation.verify_tree import verify_tree


def chain(*token_ids: int) -> Draft:
    return Draft(token_ids, "fake")


def tree(token_ids: tuple[int, ...], parents: tuple[int, ...]) -> Draft:
    return Draft(token_ids, "fake", parents)


class TestOneSequence:
    def test_all_accepted_gives_the_bonus_token(self) -> None:
        assert match_sampled([5, 6, 7], chain(5, 6)) == Verified([5, 6, 7], [0, 1, 2])

    def test_the_first_mismatch_ends_it_with_the_sampled_token(self) -> None:
        assert match_sampled([5, 9, 7], chain(5, 6)) == Verified([5, 9], [0, 1])
        assert match_sampled([8, 6, 7], chain(5, 6)) == Verified([8], [0])

    def test_a_tree_follows_the_branch_that_was_sampled(self) -> None:
        #        5 ── 6
        #  root ─┤    └─ 7          rows: 0 root, 1: 5, 2: 8, 3: 6, 4: 7, 5: 9
        #        8 ── 9
        draft = tree((5, 8, 6, 7, 9), (-1, -1, 0, 0, 1))
        assert match_sampled([8, 0, 9, 0, 0, 4], draft) == Verified([8, 9, 4], [0, 2, 5])
        assert match_sampled([5, 7, 9, 0, 3, 4], draft) == Verified([5, 7, 3], [0, 1, 4])
        assert match_sampled([5, 9, 9, 0, 3, 4], draft) == Verified([5, 9], [0, 1])
        assert match_sampled([1, 7, 9, 0, 3, 4], draft) == Verified([1], [0])

    def test_twins_count_once(self) -> None:
        draft = tree((5, 5, 6, 6), (-1, -1, 0, 1))
        assert match_sampled([5, 6, 6, 1, 2], draft) == Verified([5, 6, 1], [0, 1, 3])

    def test_a_row_that_could_not_be_sampled_ends_the_path(self) -> None:
        assert match_sampled([5, -1, 7], chain(5, 6)) == Verified([5, -1], [0, 1])

    def test_num_accepted_counts_draft_tokens(self) -> None:
        assert match_sampled([5, 9, 7], chain(5, 6)).num_accepted == 1


def test_a_ragged_batch_keeps_sequences_apart() -> None:
    drafts = [None, chain(1, 2), tree((3, 4), (-1, -1)), chain()]
    sampled = [7, 1, 2, 8, 4, 0, 9, 6]
    assert verify(sampled, [0, 1, 4, 7, 8], drafts) == [
        Verified([7], [0]),
        Verified([1, 2, 8], [0, 1, 2]),
        Verified([4, 9], [0, 2]),
        Verified([6], [0]),
    ]


def one_hot(token: int) -> Distribution:
    return np.array([token]), np.ones(1)


class CertainTarget:
    """A target that gives token 4 everywhere."""

    noise = StepNoise(seed=1, index=0, position=10)

    def distribution(self, row: int) -> Distribution:
        return one_hot(4)


def test_drawn_drafts_are_decided_by_their_targets_and_others_by_what_was_sampled() -> None:
    drawn = Draft((4, 3), "fake", distributions=(one_hot(4), one_hot(3)))
    outcomes = verify([-1, -1, -1, 5, 7, 9], [0, 3, 5, 6], [drawn, chain(5), None], {0: CertainTarget()})
    assert outcomes == [Verified([4, 4], [0, 1]), Verified([5, 7], [0, 1]), Verified([9], [0])]


def test_a_rule_is_chosen_by_the_draft_and_the_parameters() -> None:
    drawn = Draft((4, 3), "fake", distributions=(one_hot(4), one_hot(3)))
    assert needs_target(drawn, SamplingParams())
    assert not needs_target(drawn, SamplingParams(temperature=0.0))
    assert not needs_target(chain(4, 3), SamplingParams())
    assert rule_of(drawn) is verify_block
    assert rule_of(replace(drawn, parents=(-1, 0))) is verify_block
    assert rule_of(replace(drawn, parents=(-1, -1))) is verify_tree


def test_rows_that_do_not_fit_the_draft_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="3 logit rows"):
        verify([1, 2, 3], [0, 3], [chain(1)])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_path_is_a_chain_of_parents_that_were_sampled(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 12))
    tokens = tuple(data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)))
    parents = tuple(data.draw(st.integers(-1, i - 1)) for i in range(size))
    sampled = data.draw(st.lists(st.integers(-1, 2), min_size=size + 1, max_size=size + 1))
    outcome = match_sampled(sampled, tree(tokens, parents))
    assert outcome.path[0] == 0
    for before, row in zip(outcome.path, outcome.path[1:], strict=False):
        assert parents[row - 1] + 1 == before
        assert tokens[row - 1] == sampled[before]
    assert outcome.token_ids == [sampled[row] for row in outcome.path]
    last = outcome.path[-1]
    children = {tokens[i] for i in range(size) if parents[i] + 1 == last}
    assert sampled[last] not in children


# --- drafts and text -------------------------------------------------------------------------------------------------

VOCAB = 5


def model(context: tuple[int, ...]) -> torch.Tensor:
    """Logits that depend on the last two tokens."""
    generator = torch.Generator().manual_seed(1 + context[-1] + VOCAB * context[-2])
    return torch.randn(VOCAB, generator=generator) * 1.5


class FakeDrafter:
    """Proposes random chains or trees; it often guesses right because there are few tokens."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.random = random.Random(seed)

    def propose(self, context: tuple[int, ...]) -> Draft | None:
        rng = self.random
        if self.kind == "none":
            return None
        if self.kind == "coupled":  # draws from distributions of its own, with the target's noise
            return self.coupled(context)
        size = rng.randint(0, 6)
        if self.kind == "adaptive":  # whether to draft may depend on what is known, here on tokens and distributions
            size = 4 if float(model(context).softmax(0).max()) > 0.5 else context[-1] % 3
        token_ids = tuple(rng.randrange(VOCAB) for _ in range(size))
        if self.kind != "tree":
            return Draft(token_ids, "fake")
        return Draft(token_ids, "fake", tuple(rng.randint(-1, i - 1) for i in range(size)))

    def coupled(self, context: tuple[int, ...]) -> Draft:
        noise = StepNoise(self.seed, 0, len(context))
        tokens: tuple[int, ...] = ()
        distributions: list[Distribution] = []
        while len(tokens) < 3:
            q = np.arange(VOCAB), model((*context, *tokens)).mul(0.7).double().softmax(0).numpy()
            tokens += tuple(noise.draw_coupled(len(tokens), q))
            distributions.append(q)
        return Draft(tokens, "fake", distributions=tuple(distributions))


def rows_of(state: SamplingState, draft: Draft) -> list[SampleRow]:
    paths: list[tuple[int, ...]] = [()]
    for i, token in enumerate(draft.token_ids):
        parent = i - 1 if draft.parents is None else draft.parents[i]
        paths.append((*paths[parent + 1], token))
    return [SampleRow(state, path) for path in paths]


def generate(params: SamplingParams, kind: str, count: int, seed: int, sampler: Sampler) -> tuple[list[int], int]:
    """``count`` tokens and how many draft tokens were accepted on the way."""
    prompt = (0, 1)
    state = SamplingState(params, prompt_ids=prompt, vocab_size=VOCAB, eos_ids=(4,), seed=seed)
    output: list[int] = []
    drafter, accepted = FakeDrafter(kind, seed), 0
    while len(output) < count:
        context = (*prompt, *output)
        draft = drafter.propose(context) or Draft((), "none")
        rows = rows_of(state, draft)
        logits = torch.stack([model((*context, *row.draft)) for row in rows])
        outcome = verify(sampler.sample(logits, rows).token_ids, [0, len(rows)], [draft])[0]
        accepted += outcome.num_accepted
        output += outcome.token_ids
        state.extend(outcome.token_ids)
    return output[:count], accepted


TEXT_PARAMS = {
    "greedy": SamplingParams(temperature=0.0),
    "greedy penalized": SamplingParams(temperature=0.0, repetition_penalty=1.3, frequency_penalty=0.2),
    "sampled": SamplingParams(),
    "truncated": SamplingParams(temperature=0.8, top_k=4, top_p=0.9, min_p=0.05),
    "everything": SamplingParams(
        temperature=1.2,
        top_p=0.95,
        typical_p=0.95,
        presence_penalty=0.3,
        frequency_penalty=0.1,
        repetition_penalty=1.1,
        logit_bias={2: 1.0},
        bad_words_ids=((1, 2), (3, 3, 0)),
        min_tokens=20,
    ),
}


PLAIN, COUPLED = Sampler(VOCAB), Sampler(VOCAB, coupled=True)
WAYS = [(PLAIN, "chain"), (PLAIN, "tree"), (PLAIN, "adaptive"), (COUPLED, "tree"), (COUPLED, "coupled")]
WAY_NAMES = ["chain", "tree", "adaptive", "tree to a coupled target", "drawn with shared noise"]


@pytest.mark.parametrize(("sampler", "kind"), WAYS, ids=WAY_NAMES)
@pytest.mark.parametrize("name", TEXT_PARAMS)
def test_text_with_drafts_equals_text_without(name: str, sampler: Sampler, kind: str) -> None:
    total = 0
    for seed in range(10):
        expected, _ = generate(TEXT_PARAMS[name], "none", 40, seed, sampler)
        result, accepted = generate(TEXT_PARAMS[name], kind, 40, seed, sampler)
        assert result == expected
        total += accepted
    assert total > 20  # drafts did matter


def test_shared_noise_makes_drafts_match() -> None:
    """The same drafts match a target with shared noise more often than one whose noise has nothing to do with them."""
    accepted = sum(generate(SamplingParams(), "coupled", 60, seed, COUPLED)[1] for seed in range(10))
    apart = sum(generate(SamplingParams(), "coupled", 60, seed, PLAIN)[1] for seed in range(10))
    assert accepted > 1.5 * apart


@pytest.mark.parametrize(("sampler", "kind"), [(PLAIN, "none"), *WAYS], ids=["none", *WAY_NAMES])
def test_sampled_pairs_converge_to_the_exact_joint_distribution(sampler: Sampler, kind: str) -> None:
    """Two tokens, penalties included: the distance to the truth falls as n^-1/2."""
    params = SamplingParams(temperature=0.9, top_p=0.95, presence_penalty=0.5)
    joint = np.zeros((VOCAB, VOCAB))
    state = SamplingState(params, prompt_ids=(0, 1), vocab_size=VOCAB, seed=0)
    ids, p = sampler.distribution(model((0, 1)).numpy(), SampleRow(state))
    for token, probability in zip(ids.tolist(), p, strict=True):
        next_ids, next_p = sampler.distribution(model((0, 1, token)).numpy(), SampleRow(state, (token,)))
        joint[token, next_ids] = probability * next_p
    counts = np.zeros((VOCAB, VOCAB))
    distance = {}
    for n in range(1, 4097):
        first, second = generate(params, kind, 2, n, sampler)[0]
        counts[first, second] += 1
        distance[n] = 0.5 * np.abs(counts / n - joint).sum()
    assert counts[joint == 0].sum() == 0
    cells = np.count_nonzero(joint)
    for n in (64, 512, 4096):
        assert distance[n] < 0.8 * np.sqrt(cells / n)
    expected = n * joint[joint > 0]
    chi_square = ((counts[joint > 0] - expected) ** 2 / expected).sum()
    assert chi_square < cells + 4 * np.sqrt(2 * cells)
