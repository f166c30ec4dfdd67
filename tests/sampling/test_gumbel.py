"""Coupled noise: Gumbel distributed, named by (seed, index, position, token), and what drafts gain by it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sampling_reference import probabilities, processed_logits, row

from paceline.sampling.gumbel import coupled_tokens, first_arrival, gumbel_noise, token_uniforms
from paceline.sampling.params import SamplingParams
from paceline.sampling.sampler import NOT_FINITE, Sampler


def test_the_numbers_of_a_seed_are_these() -> None:
    """Text depends on them: a numpy that gives others would change every coupled text."""
    expected = [0.10065846644700926, 0.31482992545343524, 0.1567417900951168, 0.7863023278991629]
    assert token_uniforms(42, 1, 17, 4).tolist() == pytest.approx(expected, abs=1e-15)


def test_the_noise_of_a_token_does_not_depend_on_the_vocabulary() -> None:
    long = gumbel_noise(5, 0, 9, 5000)
    for size in (1, 3, 4, 129, 4999):
        assert np.array_equal(gumbel_noise(5, 0, 9, size), long[:size])


def test_every_part_of_the_name_changes_the_noise() -> None:
    names = [(0, 0, 0), (1, 0, 0), (1 << 32, 0, 0), (0, 1, 0), (0, 0, 1)]
    noises = [gumbel_noise(*name, 8) for name in names]
    for i, first in enumerate(noises):
        for second in noises[:i]:
            assert not np.isin(first, second).any()
    assert np.array_equal(gumbel_noise(-1, 0, 0, 8), gumbel_noise(2**64 - 1, 0, 0, 8))


def test_the_noise_is_gumbel_distributed() -> None:
    noise = np.sort(gumbel_noise(3, 0, 1, 50_000))
    cdf = np.exp(-np.exp(-noise))
    ranks = (np.arange(50_000) + 0.5) / 50_000
    assert np.abs(cdf - ranks).max() < 1.95 / math.sqrt(50_000)  # Kolmogorov and Smirnov, 0.1%
    assert np.isfinite(noise).all()


@pytest.mark.parametrize("size", [1, 2, 50, 49_152])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 8.0])
def test_the_first_arrival_is_the_argmax_of_log_weight_and_noise(size: int, sharpness: float) -> None:
    rng = np.random.default_rng(size)
    for position in range(30):
        weights = np.exp(rng.normal(size=size) * sharpness).astype(np.float32)
        weights[rng.random(size) < 0.2] = 0.0
        weights[rng.integers(size)] = 1.0
        with np.errstate(divide="ignore"):
            scores = np.log(weights.astype(np.float64)) + gumbel_noise(1, 0, position, size)
        assert first_arrival(weights, token_uniforms(1, 0, position, size)) == int(scores.argmax())


def test_tiny_weights_do_not_overflow() -> None:
    weights = np.array([0.0, 1e-45, 0.0], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert first_arrival(weights, np.full(3, 0.5)) == 1


def test_coupled_tokens_are_a_draw_without_replacement() -> None:
    """Pairs against p(x) p(y) / (1 - p(x)), and the first of them is the single draw."""
    ids, weights = np.array([3, 4, 8]), np.array([0.5, 0.2, 0.3])
    n, counts = 8000, {}
    for position in range(n):
        pair = tuple(coupled_tokens(ids, weights, 7, 0, position, 2))
        assert [pair[0]] == coupled_tokens(ids, 10 * weights, 7, 0, position)
        counts[pair] = counts.get(pair, 0) + 1
    p = dict(zip(ids.tolist(), weights.tolist(), strict=True))
    expected = {(x, y): n * p[x] * p[y] / (1 - p[x]) for x in p for y in p if x != y}
    assert sum((counts[pair] - e) ** 2 / e for pair, e in expected.items()) < 5 + 4 * math.sqrt(10)


PARAMS = {
    "plain": SamplingParams(),
    "truncated": SamplingParams(temperature=1.3, top_k=15, top_p=0.95, min_p=0.02),
    "everything": SamplingParams(
        temperature=0.9, typical_p=0.97, presence_penalty=0.5, repetition_penalty=1.4,
        logit_bias={7: 3.0}, bad_words_ids=((9,), (5, 2, 10), (2, 11)), min_tokens=5,
    ),
}  # fmt: skip


class TestCoupledSampler:
    @pytest.mark.parametrize("name", PARAMS)
    def test_draws_follow_the_processed_distribution(self, name: str) -> None:
        n, vocab = 4096, 30
        logits = torch.randn(vocab, generator=torch.Generator().manual_seed(9)) * 1.5
        sampler, params = Sampler(vocab, coupled=True), PARAMS[name]
        rows = [
            row(params, vocab, prompt=[1, 2], output=[2, 5, 2], eos=[12], seed=i // 4, index=i % 4) for i in range(n)
        ]
        tokens = np.array(sampler.sample(logits.expand(n, vocab), rows).token_ids)
        p = np.array(probabilities(processed_logits(logits.tolist(), params, [1, 2], [2, 5, 2], [12]), params))
        assert set(tokens.tolist()) <= set(np.flatnonzero(p).tolist())
        counts, expected = np.bincount(tokens, minlength=vocab)[p > 0], n * p[p > 0]
        common = expected >= 5
        freedom = int(common.sum())
        chi_square = ((counts[common] - expected[common]) ** 2 / expected[common]).sum()
        assert chi_square < freedom + 4 * math.sqrt(2 * freedom)

    def test_a_token_is_the_argmax_with_the_noise_of_its_position(self) -> None:
        logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
        rows = [row(SamplingParams(), 50, prompt=[1, 2], draft=[4] * (i % 3), seed=i) for i in range(20)]
        expected = [int((logits[i].double().numpy() + gumbel_noise(i, 0, 2 + i % 3, 50)).argmax()) for i in range(20)]
        assert Sampler(50, coupled=True).sample(logits, rows).token_ids == expected

    def test_alone_and_in_a_batch_it_is_the_same(self) -> None:
        logits = torch.randn(12, 50, generator=torch.Generator().manual_seed(1))
        params = [*PARAMS.values(), SamplingParams(temperature=0.0)]
        rows = [row(params[i % 4], 50, seed=i) for i in range(12)]
        sampler = Sampler(50, coupled=True)
        alone = [sampler.sample(logits[i : i + 1], rows[i : i + 1]).token_ids[0] for i in range(12)]
        assert sampler.sample(logits, rows).token_ids == alone

    def test_greedy_rows_and_errors_are_as_ever(self) -> None:
        logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
        logits[1, 4] = math.nan
        rows = [row(SamplingParams(temperature=0.0), 50), row(SamplingParams(), 50), row(SamplingParams(), 50)]
        output = Sampler(50, coupled=True).sample(logits, rows)
        assert output.token_ids[:2] == [int(logits[0].argmax()), -1]
        assert output.errors == {1: NOT_FINITE}


@pytest.mark.parametrize("seed", range(4))
def test_coupled_draws_agree_as_often_as_promised(seed: int) -> None:
    """At least (1 - TV) / (1 + TV) of the time, and never more than the 1 - TV that any coupling can reach."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(20, 0.5))
    q = 0.6 * p + 0.4 * rng.dirichlet(np.full(20, 0.5))
    n, ids = 4000, np.arange(20)
    hits = sum(coupled_tokens(ids, p, 3, seed, t) == coupled_tokens(ids, q, 3, seed, t) for t in range(n))
    tv = 0.5 * np.abs(p - q).sum()
    error = 4 * math.sqrt(0.25 / n)
    assert (1 - tv) / (1 + tv) - error < hits / n < 1 - tv + error
