"""Prints what block verification emits a step against token by token rejection, on random Markov models.

``PYTHONPATH=src python tests/speculation/block_gain.py``: about a minute. Target and draft model are tables of 50
tokens; the draft model's logits are the target's with normal noise of several strengths.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from paceline.speculation.draft import Distribution, Draft
from paceline.speculation.noise import StepNoise
from paceline.speculation.outcome import Target, Verified
from paceline.speculation.verify_block import verify_block
from paceline.speculation.verify_tree import verify_tree

VOCAB = 50
STEPS = 2500
IDS = np.arange(VOCAB)


class KnownTarget:
    """Distributions that are already there."""

    def __init__(self, noise: StepNoise, rows: list[Distribution]) -> None:
        self.noise = noise
        self.rows = rows

    def distribution(self, row: int) -> Distribution:
        return self.rows[row]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def emitted(rule: Callable[[Draft, Target], Verified], p: np.ndarray, q: np.ndarray, length: int) -> float:
    """Mean number of tokens a step."""
    total = 0
    for step in range(STEPS):
        noise, last = StepNoise(step, 0, 1), step % VOCAB
        tokens: list[int] = []
        drawn_from: list[Distribution] = []
        rows = [(IDS, p[last])]
        for place in range(length):
            drawn_from.append((IDS, q[last]))
            last = noise.draw(place, drawn_from[-1])[0]
            tokens.append(last)
            rows.append((IDS, p[last]))
        draft = Draft(tuple(tokens), "table", distributions=tuple(drawn_from))
        total += 1 + rule(draft, KnownTarget(noise, rows)).num_accepted
    return total / STEPS


def main() -> None:
    rng = np.random.default_rng(0)
    print("1 - TV  drafted  token by token  block")
    for strength in (0.3, 0.6, 1.0, 1.6):
        logits = 2.5 * rng.normal(size=(VOCAB, VOCAB))
        p, q = softmax(logits), softmax(logits + strength * rng.normal(size=(VOCAB, VOCAB)))
        for length in (2, 4, 7, 15):
            one, block = (emitted(rule, p, q, length) for rule in (verify_tree, verify_block))
            overlap = np.minimum(p, q).sum(axis=1).mean()
            print(f"{overlap:6.2f}  {length:7}  {one:14.2f}  {block:5.2f}  {100 * (block / one - 1):+.0f}%")


if __name__ == "__main__":
    main()
