"""Drawn drafts leave no trace: the exact law of what a step emits is the target's, to the last digit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_models import (
    Context,
    Drafting,
    ToyModel,
    ToyTarget,
    chain,
    chain_while,
    distance,
    drawn_tree,
    emitted_law,
    exhausted_tree,
    mean_accepted,
    mixed_chain,
    mixed_tree,
    one_hot,
    outcomes,
    tree_that_depends_on_what_it_drew,
)

from paceline.speculation.distribution import probability_of
from paceline.speculation.draft import Distribution, Draft
from paceline.speculation.noise import StepNoise
from paceline.speculation.verify import Verified, rule_of
from paceline.speculation.verify_block import verify_block
from paceline.speculation.verify_tree import verify_tree

EXACT = 1e-12
DETECTED = 1e-3
LENGTH = 4
CONTEXT: Context = (0,)


def by_shape(draft: Draft, target: ToyTarget) -> Verified:
    return rule_of(draft)(draft, target)


def sure_and_short(q: Distribution, drawn: Context) -> bool:
    """Goes on by distributions and by tokens before: allowed."""
    return float(q[1].max()) > 0.45 and (not drawn or drawn[-1] != 2)


CHAINS: dict[str, Drafting] = {
    "one token": chain(1),
    "two tokens": chain(2),
    "three tokens": chain(3),
    "chosen and drawn": mixed_chain,
    "as long as it is sure": chain_while(sure_and_short),
}
TREES: dict[str, Drafting] = {
    "drawn": drawn_tree,
    "exhausted": exhausted_tree,
    "chosen and drawn": mixed_tree,
    "depends on what it drew": tree_that_depends_on_what_it_drew,
}
MODELS = [ToyModel(1), ToyModel(2, likeness=0.0), ToyModel(3, sparse=True), ToyModel(4, likeness=0.95, sparse=True)]


def error(model: ToyModel, drafting: Drafting, rule: object = by_shape, length: int = LENGTH) -> float:
    return distance(emitted_law(model, CONTEXT, drafting, rule, length=length), model.law(CONTEXT, length))


@pytest.mark.parametrize("model", MODELS, ids=range(len(MODELS)))
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_emits_the_target_s_law(name: str, model: ToyModel) -> None:
    assert error(model, CHAINS[name], verify_block) < EXACT
    assert error(model, CHAINS[name], verify_tree) < EXACT


@pytest.mark.parametrize("model", MODELS, ids=range(len(MODELS)))
@pytest.mark.parametrize("name", TREES)
def test_a_tree_emits_the_target_s_law(name: str, model: ToyModel) -> None:
    assert error(model, TREES[name], verify_tree, 3) < EXACT


@pytest.mark.parametrize("seed", range(10))
def test_any_tables(seed: int) -> None:
    model = ToyModel(seed + 100, vocab=2 + seed % 3, likeness=seed % 4 / 3, sparse=seed % 2 == 0)
    assert error(model, chain(2)) < EXACT
    assert error(model, mixed_tree, length=3) < EXACT


def test_a_drafter_that_equals_the_target_has_every_token_accepted() -> None:
    model = ToyModel(5, likeness=1.0)
    for rule in (verify_block, verify_tree):
        assert mean_accepted(model, CONTEXT, chain(3), rule) == pytest.approx(3.0, abs=1e-9)


def test_a_drafter_without_a_token_in_common_has_none_accepted() -> None:
    class Apart(ToyModel):
        def p(self, context: Context) -> Distribution:
            return np.array([0, 1]), np.array([0.3, 0.7])

        def q(self, context: Context) -> Distribution:
            return np.array([2, 3]), np.array([0.5, 0.5])

    model = Apart(vocab=4)
    for drafting in (chain(2), drawn_tree):
        assert error(model, drafting, length=2) < EXACT
        assert mean_accepted(model, CONTEXT, drafting, by_shape) == 0.0


def test_the_bonus_token_and_what_stands_for_a_refused_one_have_a_row() -> None:
    for drafting in (chain(3), drawn_tree, mixed_tree):
        for _, draft, outcome in outcomes(MODELS[0], CONTEXT, drafting, by_shape):
            assert len(outcome.token_ids) == len(outcome.path) == outcome.num_accepted + 1
            parents = draft.parents or range(-1, len(draft) - 1)
            for before, row, token in zip(outcome.path, outcome.path[1:], outcome.token_ids, strict=False):
                assert parents[row - 1] + 1 == before
                assert draft.token_ids[row - 1] == token


class TestTheseTestsDetect:
    """What would be wrong, and that it is found."""

    def test_a_cut_that_looks_at_the_drawn_token(self) -> None:
        def peeking(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
            draft = chain(2)(model, context, noise)
            unlikely = probability_of(draft.distributions[1], draft.token_ids[1]) < 0.4
            return draft.trim(1) if unlikely else draft

        for rule in (verify_block, verify_tree):
            assert error(MODELS[0], peeking, rule) > DETECTED

    def test_a_choice_between_drafts_that_looks_behind_the_drawn_token(self) -> None:
        """How sure the drafter is of a second token depends on the first that was drawn."""

        def choosy(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
            draft = chain(2)(model, context, noise)
            if float(draft.distributions[1][1].max()) > 0.6:
                return draft
            guess = model.guess(context)
            return Draft((guess,), "toy", distributions=(one_hot(guess),))

        assert error(MODELS[0], choosy) > DETECTED

    def test_siblings_in_another_order_than_they_were_drawn(self) -> None:
        def sorted_siblings(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
            q = model.q(context)
            tokens = tuple(sorted(noise.draw(0, q, 2)))
            return Draft(tokens, "toy", (-1,) * len(tokens), distributions=(q,) * len(tokens))

        assert error(MODELS[0], sorted_siblings, verify_tree) > DETECTED

    def test_a_twin_that_was_dropped(self) -> None:
        """A drawn token that equals an earlier sibling must stay, though it cannot be accepted any more."""

        def merged(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
            draft = mixed_tree(model, context, noise)
            keep = [0] if draft.token_ids[1] == draft.token_ids[0] else [0, 1]
            return Draft(
                tuple(draft.token_ids[i] for i in keep),
                "toy",
                tuple(-1 for _ in keep),
                distributions=tuple(draft.distributions[i] for i in keep),
            )

        assert error(MODELS[0], merged, verify_tree) > DETECTED

    def test_siblings_drawn_otherwise_than_without_replacement(self) -> None:
        def neighbour(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
            q = model.q(context)
            first, second = noise.draw(0, q)[0], noise.draw(1, q)[0]
            if first == second:
                second = (first + 1) % model.vocab
            return Draft((first, second), "toy", (-1, -1), distributions=(q, q))

        assert error(MODELS[0], neighbour, verify_tree) > DETECTED

    def test_a_wrong_residual(self) -> None:
        def from_the_target_itself(draft: Draft, target: ToyTarget) -> Verified:
            outcome = by_shape(draft, target)
            if outcome.num_accepted == len(draft):
                return outcome
            ids, p = target.distribution(outcome.path[-1])
            return replace(outcome, token_ids=[*outcome.token_ids[:-1], int(ids[target.noise.residual(p)])])

        assert error(MODELS[0], chain(2), from_the_target_itself) > DETECTED
        assert error(MODELS[0], drawn_tree, from_the_target_itself, 3) > DETECTED

    def test_distributions_other_than_those_drawn_from(self) -> None:
        def wrong(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
            draft = chain(2)(model, context, noise)
            return replace(
                draft, distributions=tuple((ids, np.full(len(ids), 1 / len(ids))) for ids, _ in draft.distributions)
            )

        assert error(MODELS[0], wrong) > DETECTED


class TestAcceptance:
    @pytest.mark.parametrize("seed", range(5))
    def test_of_one_token_is_one_minus_the_distance(self, seed: int) -> None:
        model = ToyModel(seed, vocab=4)
        p, q = (dict(zip(d[0].tolist(), d[1], strict=True)) for d in (model.p(CONTEXT), model.q(CONTEXT)))
        expected = sum(min(p.get(x, 0.0), q.get(x, 0.0)) for x in range(4))
        for rule in (verify_block, verify_tree):
            assert mean_accepted(model, CONTEXT, chain(1), rule) == pytest.approx(expected, abs=EXACT)

    def test_of_a_chosen_token_is_its_probability(self) -> None:
        model = ToyModel(1)
        guess = model.guess(CONTEXT)
        expected = probability_of(model.p(CONTEXT), guess)

        def chosen(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
            return Draft((guess,), "toy", distributions=(one_hot(guess),))

        assert mean_accepted(model, CONTEXT, chosen, verify_block) == pytest.approx(expected, abs=EXACT)

    @pytest.mark.parametrize("seed", range(12))
    def test_block_verification_accepts_no_fewer(self, seed: int) -> None:
        model = ToyModel(seed + 50, vocab=2 + seed % 2, likeness=seed % 4 / 4, sparse=seed % 3 == 0)
        for drafting in (chain(3), CHAINS["as long as it is sure"], mixed_chain):
            block, token_by_token = (mean_accepted(model, CONTEXT, drafting, r) for r in (verify_block, verify_tree))
            assert block >= token_by_token - EXACT

    def test_the_paper_s_example(self) -> None:
        """Two tokens, p = (1/3, 2/3), q = (2/3, 1/3), two drafted: 10/9 token by token, 11/9 as a block."""

        class Example(ToyModel):
            def p(self, context: Context) -> Distribution:
                return np.array([0, 1]), np.array([1 / 3, 2 / 3])

            def q(self, context: Context) -> Distribution:
                return np.array([0, 1]), np.array([2 / 3, 1 / 3])

        assert mean_accepted(Example(vocab=2), CONTEXT, chain(2), verify_tree) == pytest.approx(10 / 9)
        assert mean_accepted(Example(vocab=2), CONTEXT, chain(2), verify_block) == pytest.approx(11 / 9)

    def test_a_second_sibling_helps(self) -> None:
        def one(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
            return chain(1)(model, context, noise)

        def two(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
            q = model.q(context)
            tokens = tuple(noise.draw(0, q, 2))
            return Draft(tokens, "toy", (-1,) * len(tokens), distributions=(q,) * len(tokens))

        model = ToyModel(7, vocab=4, likeness=0.3)
        assert mean_accepted(model, CONTEXT, two, verify_tree) > mean_accepted(model, CONTEXT, one, verify_tree) + 0.05


class TestRowsWithoutADistribution:
    """The model gave NaN, or masks left nothing: an error if the text gets there, and nothing else."""

    @pytest.mark.parametrize("drafting", [chain(3), drawn_tree])
    @pytest.mark.parametrize("broken", [0, 1, 2, 3])
    def test_the_text_before_it_keeps_its_law(self, drafting: Drafting, broken: int) -> None:
        model = MODELS[0]
        law = emitted_law(model, CONTEXT, drafting, by_shape, (broken,), length=1)
        if broken == 0:
            assert law == {(-1,): pytest.approx(1.0)}
        else:
            assert distance(law, model.law(CONTEXT, 1)) < EXACT

    @pytest.mark.parametrize("drafting", [chain(3), drawn_tree])
    def test_it_shows_exactly_where_the_path_ends_at_it(self, drafting: Drafting) -> None:
        ends = 0
        for _, _, outcome in outcomes(MODELS[0], CONTEXT, drafting, by_shape, (1,)):
            assert (outcome.token_ids[-1] == -1) == (outcome.path[-1] == 1)
            assert -1 not in outcome.token_ids[:-1]
            ends += outcome.path[-1] == 1
        assert ends > 0

    def test_no_row_behind_a_refused_token_is_looked_at(self) -> None:
        class NeverTwo(ToyModel):
            def p(self, context: Context) -> Distribution:
                return np.array([0, 1]), np.array([0.5, 0.5])

        draft = Draft((2, 2, 2), "toy", distributions=(one_hot(2),) * 3)
        target = ToyTarget(NeverTwo(), (0, 0), draft, StepNoise(1, 0, 2))
        assert by_shape(draft, target).num_accepted == 0
        assert target.asked == [0]


def test_a_token_that_its_distribution_cannot_give_is_a_bug() -> None:
    draft = Draft((1,), "toy", distributions=(one_hot(2),))
    for rule in (verify_block, verify_tree):
        with pytest.raises(AssertionError, match="drawn"):
            rule(draft, ToyTarget(MODELS[0], CONTEXT, draft, StepNoise(1, 0, 1)))
