"""Sampling in the plainest words: Python lists, one token after the other. What the tests compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from paceline.sampling.params import SamplingParams
from paceline.sampling.sampler import SampleRow
from paceline.sampling.state import SamplingState

INF = math.inf


def processed_logits(
    logits: Sequence[float],
    params: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    eos: Sequence[int] = (),
) -> list[float]:
    """Penalties, bias, bad words, min_tokens."""
    result = [float(x) for x in logits]
    for token in range(len(result)):
        if token in prompt or token in output:
            if result[token] > 0:
                result[token] /= params.repetition_penalty
            else:
                result[token] *= params.repetition_penalty
        result[token] -= params.frequency_penalty * list(output).count(token)
        if token in output:
            result[token] -= params.presence_penalty
        result[token] += (params.logit_bias or {}).get(token, 0.0)
    for word in params.bad_words_ids:
        start = list(word[:-1])
        if list(output)[len(output) - len(start) :] == start and len(output) >= len(start):
            result[word[-1]] = -INF
    if len(output) < params.min_tokens:
        for token in {*params.stop_token_ids, *(() if params.ignore_eos else eos)}:
            result[token] = -INF
    return result


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / sum(weights) for w in weights]


def probabilities(logits: Sequence[float], params: SamplingParams) -> list[float]:
    """Temperature, then each truncation on the distribution that the one before it left."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if params.temperature == 0:
        return [float(token == order[0]) for token in range(len(logits))]
    scaled = [x / params.temperature for x in logits]

    def keep(tokens: Sequence[int]) -> None:
        for token in range(len(scaled)):
            if token not in tokens:
                scaled[token] = -INF

    if params.top_k > 0:
        keep(order[: params.top_k])
    if params.top_p < 1.0:
        p, total, kept = softmax(scaled), 0.0, []
        for token in order:
            if total < params.top_p:
                kept.append(token)
            total += p[token]
        keep(kept)
    if params.min_p > 0.0:
        p = softmax(scaled)
        keep([token for token in order if p[token] >= params.min_p * max(p)])
    if params.typical_p < 1.0:
        p = softmax(scaled)
        possible = [token for token in order if p[token] > 0.0]
        entropy = -sum(p[token] * math.log(p[token]) for token in possible)
        distance = {token: abs(-math.log(p[token]) - entropy) for token in possible}
        total, kept = 0.0, []
        for token in sorted(possible, key=lambda token: distance[token]):
            if total < params.typical_p or math.isclose(distance[token], distance[kept[-1]], rel_tol=1e-6):
                kept.append(token)
            total += p[token]
        keep(kept)
    return softmax(scaled)


def choose(p: Sequence[float], uniform: float) -> int:
    """Walks the tokens in the vocabulary's order."""
    total = 0.0
    for token, probability in enumerate(p):
        total += probability
        if uniform < total:
            return token
    return max(token for token, probability in enumerate(p) if probability > 0)


def near_boundary(p: Sequence[float], uniform: float) -> bool:
    """Whether rounding may decide."""
    return bool(np.abs(np.cumsum(p) - uniform).min() < 1e-5)


def row(
    params: SamplingParams,
    vocab_size: int,
    *,
    prompt: Sequence[int] = (0,),
    output: Sequence[int] = (),
    draft: Sequence[int] = (),
    eos: Sequence[int] = (),
    seed: int = 0,
    index: int = 0,
) -> SampleRow:
    state = SamplingState(
        params,
        prompt_ids=list(prompt),
        output_ids=list(output),
        vocab_size=vocab_size,
        eos_ids=eos,
        seed=seed,
        index=index,
    )
    return SampleRow(state, tuple(draft))
