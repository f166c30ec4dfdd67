"""Drawn drafts with the noise that the engine has: many texts of several steps converge to the target's law, and the
same measurement finds noise that is used twice and a biased cut."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from toy_models import (
    Context,
    Drafting,
    ToyModel,
    ToyTarget,
    chain,
    chain_while,
    drawn_tree,
    mixed_chain,
    mixed_tree,
)

from paceline.sampling.random import Purpose, uniform
from paceline.sampling.truncation import inverse_cdf
from paceline.speculation.distribution import probability_of
from paceline.speculation.draft import Distribution, Draft
from paceline.speculation.noise import StepNoise
from paceline.speculation.verify import rule_of

PROMPT: Context = (0, 1)
LENGTH = 3
FEW, MANY = 500, 16_000


def text(model: ToyModel, drafting: Drafting, seed: int, noise_of: type[StepNoise] = StepNoise) -> Context:
    """The first ``LENGTH`` tokens of sequence ``seed % 4`` of request ``seed // 4``."""
    output: Context = ()
    while len(output) < LENGTH:
        context = (*PROMPT, *output)
        noise = noise_of(seed // 4, seed % 4, len(context))
        draft = drafting(model, context, noise)
        if len(draft) == 0:  # an undrafted step
            ids, p = model.p(context)
            output += (int(ids[noise.bonus(0, p)]),)
        else:
            output += tuple(rule_of(draft)(draft, ToyTarget(model, context, draft, noise)).token_ids)
    return output[:LENGTH]


class Measurement:
    """Counts of texts against the law: total variation after ``FEW`` and all texts, and chi-square."""

    def __init__(self, model: ToyModel, texts: list[Context]) -> None:
        self.law = model.law(PROMPT, LENGTH)
        assert set(texts) <= set(self.law)
        self.few, self.many = self._distance(texts[:FEW]), self._distance(texts)
        self.noise_few, self.noise_many = (self._expected_distance(n) for n in (FEW, len(texts)))
        counts = Counter(texts)
        common = {key: p * len(texts) for key, p in self.law.items() if p * len(texts) >= 5}
        self.chi_square = sum((counts[key] - expected) ** 2 / expected for key, expected in common.items())
        freedom = len(common) - 1
        spread = 2.0 / (9.0 * freedom)  # Wilson and Hilferty: four standard deviations out
        self.limit = freedom * (1.0 - spread + 4.0 * math.sqrt(spread)) ** 3

    def _distance(self, texts: list[Context]) -> float:
        counts = Counter(texts)
        return 0.5 * sum(abs(counts[key] / len(texts) - p) for key, p in self.law.items())

    def _expected_distance(self, n: int) -> float:
        """Of n independent texts from the law itself: it falls as n^-1/2."""
        return sum(math.sqrt(p * (1.0 - p) / (2.0 * math.pi * n)) for p in self.law.values())


def adaptive(q: Distribution, drawn: Context) -> bool:
    return float(q[1].max()) > 0.4 and (not drawn or drawn[-1] != 2)


DRAFTINGS: dict[str, Drafting] = {
    "chain": chain(3),
    "adaptive chain": chain_while(adaptive),
    "chosen and drawn": mixed_chain,
    "tree": drawn_tree,
    "tree of chosen and drawn": mixed_tree,
}


@pytest.mark.parametrize("name", DRAFTINGS)
def test_texts_converge_to_the_target_s_law(name: str) -> None:
    model = ToyModel(1, likeness=0.3)
    result = Measurement(model, [text(model, DRAFTINGS[name], seed) for seed in range(MANY)])
    assert result.chi_square < result.limit
    assert result.few < 1.5 * result.noise_few
    assert result.many < 1.5 * result.noise_many
    assert result.many < 0.4 * result.few  # 32 times the texts


def test_a_text_is_a_function_of_its_seed() -> None:
    model = ToyModel(1)
    for seed in range(20):
        assert text(model, chain(3), seed) == text(model, chain(3), seed)
    assert len({text(model, chain(3), seed) for seed in range(200)}) > 10


class OppositeModel(ToyModel):
    """Two tokens; the draft model likes the one that the target does not."""

    def p(self, context: Context) -> Distribution:
        return np.array([0, 1]), np.array([1 / 3, 2 / 3])

    def q(self, context: Context) -> Distribution:
        return np.array([0, 1]), np.array([2 / 3, 1 / 3])


class NoiseOfPositions(StepNoise):
    """Keys a number by its token's own position, so that the next step may use it again."""

    def draw(self, token: int, distribution: Distribution, count: int = 1, stream: int = 0) -> list[int]:
        number = uniform(self.seed, self.index, self.position + token, Purpose.DRAFT)
        return [int(distribution[0][inverse_cdf(distribution[1], number)])]

    def accepts(self, token: int, probability: float) -> bool:
        return uniform(self.seed, self.index, self.position + token, Purpose.ACCEPT) < probability


def test_numbers_of_discarded_tokens_used_again_are_detected() -> None:
    """Why ``StepNoise`` is keyed by the step: the numbers that refused a block's end would decide the next block."""
    model = OppositeModel(vocab=2)
    good = Measurement(model, [text(model, chain(2), seed) for seed in range(4000)])
    biased = Measurement(model, [text(model, chain(2), seed, NoiseOfPositions) for seed in range(4000)])
    assert good.chi_square < good.limit
    assert biased.chi_square > 3 * biased.limit
    assert biased.many > 3 * good.many


def test_a_cut_that_looks_at_the_drawn_token_is_detected() -> None:
    def peeking(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
        draft = chain(1)(model, context, noise)
        return draft.trim(0) if probability_of(draft.distributions[0], draft.token_ids[0]) < 0.3 else draft

    model = ToyModel(1, likeness=0.3)
    result = Measurement(model, [text(model, peeking, seed) for seed in range(4000)])
    assert result.chi_square > 3 * result.limit


def test_streams_and_places_have_numbers_of_their_own() -> None:
    ids, weights = np.arange(1000), np.full(1000, 1e-3)
    noise = StepNoise(3, 0, 7)
    tokens = [noise.draw(place, (ids, weights), stream=stream)[0] for place in range(20) for stream in range(3)]
    assert len(set(tokens)) > 50
    assert noise.draw(4, (ids, weights)) != StepNoise(3, 0, 8).draw(3, (ids, weights))


def test_siblings_are_drawn_without_replacement_until_none_is_left() -> None:
    ids, weights = np.array([2, 5, 9]), np.array([0.2, 0.0, 0.8])
    for seed in range(20):
        assert sorted(StepNoise(seed, 0, 1).draw(0, (ids, weights), 3)) == [2, 9]
        assert sorted(StepNoise(seed, 0, 1).draw_coupled(0, (ids, weights), 3)) == [2, 9]
