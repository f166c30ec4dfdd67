"""Many draws follow the exact distribution, for single parameters and combinations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sampling_reference import probabilities, processed_logits, row

from paceline.sampling.params import SamplingParams
from paceline.sampling.sampler import Sampler

V = 30
N = 8192
PROMPT, OUTPUT = [1, 2], [2, 5, 2]

COMBINATIONS = {
    "temperature": SamplingParams(temperature=1.5),
    "top_k": SamplingParams(top_k=6),
    "top_p": SamplingParams(top_p=0.8),
    "min_p": SamplingParams(min_p=0.1),
    "typical_p": SamplingParams(typical_p=0.8),
    "truncations": SamplingParams(temperature=1.3, top_k=15, top_p=0.95, min_p=0.02, typical_p=0.95),
    "penalties": SamplingParams(presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.4),
    "everything": SamplingParams(
        temperature=0.9,
        top_k=20,
        top_p=0.97,
        min_p=0.01,
        typical_p=0.97,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.4,
        logit_bias={7: 3.0, 8: -3.0},
        bad_words_ids=((9,), (5, 2, 10), (2, 11)),
        min_tokens=5,
    ),
}


def draws(params: SamplingParams, logits: torch.Tensor, count: int) -> np.ndarray:
    """Tokens of ``count`` sequences that differ in seed or index only."""
    sampler, tokens = Sampler(V), []
    for start in range(0, count, 64):
        rows = [
            row(params, V, prompt=PROMPT, output=OUTPUT, eos=[12], seed=i // 4, index=i % 4)
            for i in range(start, start + 64)
        ]
        tokens += sampler.sample(logits.expand(64, V), rows).token_ids
    return np.array(tokens)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_draws_follow_the_reference_distribution(name: str) -> None:
    params = COMBINATIONS[name]
    logits = torch.randn(V, generator=torch.Generator().manual_seed(9)) * 1.5
    p = np.array(probabilities(processed_logits(logits.tolist(), params, PROMPT, OUTPUT, [12]), params))
    tokens = draws(params, logits, N)
    assert set(tokens.tolist()) <= set(np.flatnonzero(p).tolist())
    for n in (128, 1024, N):
        distance = 0.5 * np.abs(np.bincount(tokens[:n], minlength=V) / n - p).sum()
        assert distance < 0.8 * math.sqrt(np.count_nonzero(p) / n)
    counts, expected = np.bincount(tokens, minlength=V)[p > 0], N * p[p > 0]
    common = expected >= 5
    chi_square = ((counts[common] - expected[common]) ** 2 / expected[common]).sum()
    freedom = int(common.sum())
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_the_sequences_of_one_request_are_independent() -> None:
    logits = torch.zeros(4)
    pairs = np.zeros((4, 4))
    sampler = Sampler(4)
    for seed in range(3000):
        tokens = sampler.sample(logits.expand(2, 4), [row(SamplingParams(), 4, seed=seed, index=i) for i in (0, 1)])
        pairs[tuple(tokens.token_ids)] += 1
    expected = 3000 / 16
    assert ((pairs - expected) ** 2 / expected).sum() < 15 + 4 * math.sqrt(30)
