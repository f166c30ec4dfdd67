"""The random decisions of drawing and verifying one sequence's draft in one step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paceline.sampling.gumbel import coupled_tokens
from paceline.sampling.random import Purpose, uniform
from paceline.sampling.truncation import inverse_cdf
from paceline.speculation.draft import Distribution, Weights

_MOST_TOKENS = 1 << 10  # of a draft; further streams of drafting noise follow above


@dataclass(frozen=True, slots=True)
class StepNoise:
    """Names the noise of a step: the request's ``seed``, the sequence's ``index``, and the ``position`` of the first
    token that the step may emit (the number of known tokens).

    A number is keyed by that position and by the token's place in the draft, not by the token's own position: a block
    is accepted or not by numbers of tokens that are then discarded, so these say something about the text; drafting or
    verifying the next block at the same positions with the same numbers would bias it. Every step emits a token, so no
    two steps of a sequence share a position, and preemption and restarts cannot change a number.
    """

    seed: int
    index: int
    position: int

    def draw(self, token: int, distribution: Distribution, count: int = 1, stream: int = 0) -> list[int]:
        """For drafters: draft tokens ``token..token + count - 1`` (places in the draft), drawn without replacement
        from ``distribution`` (its probabilities need not be normalised); fewer where fewer ids have weight.

        Drafters that draw for the same sequence in the same step need different ``stream``s: tokens of one tree must
        not be drawn by the same numbers.
        """
        assert 0 <= token <= token + count <= _MOST_TOKENS
        ids, weights = distribution
        drawn: list[int] = []
        for place in range(token, token + count):
            if drawn:
                weights = np.where(ids == drawn[-1], 0.0, weights)
            if not weights.any():
                break
            number = uniform(self.seed, self.index, self.position, Purpose.DRAFT, stream * _MOST_TOKENS + place)
            drawn.append(int(ids[inverse_cdf(weights, number)]))
        return drawn

    def draw_coupled(self, depth: int, distribution: Distribution, count: int = 1) -> list[int]:
        """For drafters in coupled mode: ``count`` tokens that stand ``depth`` tokens behind the step's first one, drawn
        without replacement with the noise that the target will have there; the likeliest match comes first."""
        return coupled_tokens(*distribution, self.seed, self.index, self.position + depth, count)

    def accepts(self, token: int, probability: float) -> bool:
        """Whether draft token ``token`` (its place in the draft) is accepted, which has this probability."""
        return uniform(self.seed, self.index, self.position, Purpose.ACCEPT, token) < probability

    def residual(self, weights: Weights) -> int:
        """Index drawn in proportion to ``weights``: what stands instead of a refused token."""
        return inverse_cdf(weights, uniform(self.seed, self.index, self.position, Purpose.RESIDUAL))

    def bonus(self, depth: int, weights: Weights) -> int:
        """Index drawn in proportion to ``weights``, with the number that the position has in plain decoding: the token
        behind ``depth`` accepted ones, where the draft ended."""
        return inverse_cdf(weights, uniform(self.seed, self.index, self.position + depth, Purpose.SAMPLE))
