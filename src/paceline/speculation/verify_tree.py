"""Recursive rejection for trees of drawn tokens; a chain is the tree with one branch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from paceline.sampling.state import Ids
from paceline.speculation.distribution import is_one_hot, places_of, probability_of
from paceline.speculation.draft import Distribution, Draft, Weights
from paceline.speculation.noise import StepNoise
from paceline.speculation.outcome import Target, Verified


def verify_tree(draft: Draft, target: Target) -> Verified:
    """Goes down the tree; at each node the children are tried in their order.

    With R the target's distribution at the node and D what its children are drawn from, a child x is accepted with
    probability min(1, R(x) / D(x)). If it is refused, R becomes norm(max(R - D, 0)), D loses x (siblings are drawn
    without replacement) and is normalised again, and the next child is tried; if none is left, a token is drawn from R.
    With one child at each node this is the rejection sampling of Leviathan et al. 2023 and Chen et al. 2023, with
    siblings the rule of Jeon et al. 2024 ("Recursive Speculative Decoding").

    Children of a node may come from several sources: each has a D of its own, told apart by their distributions. A
    source of a single id is a chosen token; it is accepted with R(x), and two of them are independent of each other.
    """
    assert draft.distributions is not None
    children = _children(draft)
    tokens: list[int] = []
    path = [0]
    while True:
        p = target.distribution(path[-1])
        if p is None:
            tokens.append(-1)
            return Verified(tokens, path)
        siblings = children.get(path[-1] - 1)
        if siblings is None:
            tokens.append(int(p[0][target.noise.bonus(len(tokens), p[1])]))
            return Verified(tokens, path)
        accepted, remaining = _first_accepted(draft, siblings, p, target.noise)
        if accepted is None:
            tokens.append(int(p[0][target.noise.residual(remaining)]))
            return Verified(tokens, path)
        tokens.append(draft.token_ids[accepted])
        path.append(accepted + 1)


def _children(draft: Draft) -> dict[int, list[int]]:
    """Places in the draft of each token's children, in order; -1 has those of the last known token."""
    children: dict[int, list[int]] = {}
    parents = range(-1, len(draft) - 1) if draft.parents is None else draft.parents
    for child, parent in enumerate(parents):
        children.setdefault(parent, []).append(child)
    return children


@dataclass(slots=True)
class _Source:
    """What siblings are drawn from (D): ``left`` are its probabilities, drawn tokens taken out; ``places`` says where
    its ids stand among the target's, if they do (``found``)."""

    distribution: Distribution
    places: Ids
    found: npt.NDArray[np.bool_]
    left: Weights = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.distribution[1] / self.distribution[1].sum()

    def subtract_from(self, remaining: Weights) -> Weights:
        """norm(max(R - D, 0)); all zeros if nothing remains."""
        places = self.places[self.found]
        excess = remaining.copy()
        excess[places] = np.maximum(excess[places] - self.left[self.found], 0.0)
        mass = excess.sum()
        return excess / mass if mass > 0.0 else excess

    def take_out(self, token: int) -> None:
        """The next sibling is drawn without ``token``; a single id is chosen, not drawn."""
        if not is_one_hot(self.distribution):
            self.left[self.distribution[0].searchsorted(token)] = 0.0
            mass = self.left.sum()
            if mass > 0.0:
                self.left /= mass


def _first_accepted(draft: Draft, siblings: list[int], p: Distribution, noise: StepNoise) -> tuple[int | None, Weights]:
    """Place in the draft of the first sibling that is accepted; if none is, what is left of the target's weights."""
    assert draft.distributions is not None
    remaining = p[1]
    sources: list[_Source] = []
    for child in siblings:
        token, distribution = draft.token_ids[child], draft.distributions[child]
        source = _source_of(distribution, sources, p)
        likelihood = probability_of((distribution[0], source.left), token)
        assert likelihood > 0.0, f"draft token {token} at {child} is not in what {draft.drafter} can have drawn there"
        if noise.accepts(child, probability_of((p[0], remaining), token) / likelihood):
            return child, remaining
        refused = source.subtract_from(remaining)
        if not refused.any():  # R equals D: refused with the probability of rounding
            return child, remaining
        remaining = refused
        source.take_out(token)
    return None, remaining


def _source_of(distribution: Distribution, sources: list[_Source], p: Distribution) -> _Source:
    """The source with this distribution, a new one if no earlier sibling came from it."""
    for source in sources:
        ids, weights = source.distribution
        if distribution[0] is ids and distribution[1] is weights:
            return source
        if np.array_equal(distribution[0], ids) and np.array_equal(distribution[1], weights):
            return source
    sources.append(_Source(distribution, *places_of(p[0], distribution[0])))
    return sources[-1]
