"""Toy target and draft models, drafting strategies, and the exact law of what one step emits.

The law is computed, not estimated: the random decisions of drafting and verifying go through an object, and every
decision is taken each way, with its probability.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from paceline.speculation.draft import Distribution, Draft
from paceline.speculation.noise import StepNoise
from paceline.speculation.verify import Verified

Context = tuple[int, ...]
Law = dict[Context, float]


@dataclass(frozen=True)
class ToyModel:
    """p(next | context) and a draft model's q(next | context): independent random tables, q drawn towards p by
    ``likeness``, both without some tokens where ``sparse``."""

    seed: int = 0
    vocab: int = 3
    likeness: float = 0.5
    sparse: bool = False

    @cache  # noqa: B019
    def p(self, context: Context) -> Distribution:
        rng = np.random.default_rng([self.seed, 1, *context])
        return self._distribution(rng, rng.dirichlet(np.full(self.vocab, 0.7)))

    @cache  # noqa: B019
    def q(self, context: Context) -> Distribution:
        rng = np.random.default_rng([self.seed, 2, *context])
        own = rng.dirichlet(np.full(self.vocab, 0.7))
        ids, probabilities = self.p(context)
        mixed = (1.0 - self.likeness) * own
        mixed[ids] += self.likeness * probabilities
        return self._distribution(rng, mixed)

    def _distribution(self, rng: np.random.Generator, weights: np.ndarray) -> Distribution:
        if self.sparse:
            weights = weights * (rng.random(self.vocab) < 0.7)
            weights[rng.integers(self.vocab)] += 0.1
        ids = weights.nonzero()[0]
        return ids, weights[ids] / weights[ids].sum()

    def guess(self, context: Context) -> int:
        """A chosen token: the draft model's likeliest."""
        ids, probabilities = self.q(context)
        return int(ids[probabilities.argmax()])

    def law(self, context: Context, length: int) -> Law:
        """Probabilities of the next ``length`` tokens."""
        return extend(self, context, {(): 1.0}, length)


def extend(model: ToyModel, context: Context, law: Law, length: int) -> Law:
    """The law of the first ``length`` tokens where ``law`` is that of shorter or longer beginnings."""
    result: Law = defaultdict(float)
    pending = list(law.items())
    while pending:
        tokens, probability = pending.pop()
        if len(tokens) >= length or -1 in tokens:
            result[tokens[:length]] += probability
            continue
        ids, probabilities = model.p((*context, *tokens))
        pending += [((*tokens, int(i)), probability * float(x)) for i, x in zip(ids, probabilities, strict=True)]
    return dict(result)


def distance(first: Law, second: Law) -> float:
    """Total variation."""
    return 0.5 * sum(abs(first.get(key, 0.0) - second.get(key, 0.0)) for key in {*first, *second})


@dataclass
class ToyTarget:
    """The rows of a draft behind ``context``. ``broken_rows`` have no distribution."""

    model: ToyModel
    context: Context
    draft: Draft
    noise: StepNoise
    broken_rows: tuple[int, ...] = ()
    asked: list[int] = field(default_factory=list)

    def distribution(self, row: int) -> Distribution | None:
        self.asked.append(row)
        path: Context = ()
        node = row - 1
        while node >= 0:
            path = (self.draft.token_ids[node], *path)
            node = node - 1 if self.draft.parents is None else self.draft.parents[node]
        return None if row in self.broken_rows else self.model.p((*self.context, *path))


# --- drafting strategies ---------------------------------------------------------------------------------------------

#: Drafts behind a context; draws through the noise.
Drafting = Callable[[ToyModel, Context, StepNoise], Draft]


def one_hot(token: int) -> Distribution:
    return np.array([token]), np.ones(1)


def chain(size: int) -> Drafting:
    """``size`` tokens from the draft model."""
    return chain_while(lambda q, drawn: len(drawn) < size)


def chain_while(goes_on: Callable[[Distribution, Context], bool]) -> Drafting:
    """Tokens from the draft model as long as ``goes_on(distribution of the next token, tokens drawn)``."""

    def draft(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
        tokens: Context = ()
        distributions: list[Distribution] = []
        while len(tokens) < 4 and goes_on(q := model.q((*context, *tokens)), tokens):
            tokens += tuple(noise.draw(len(tokens), q))
            distributions.append(q)
        return Draft(tokens, "toy", distributions=tuple(distributions))

    return draft


def mixed_chain(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
    """A chosen token, a drawn one, a chosen one."""
    first = model.guess(context)
    q = model.q((*context, first))
    second = noise.draw(1, q)[0]
    third = model.guess((*context, first, second))
    return Draft((first, second, third), "toy", distributions=(one_hot(first), q, one_hot(third)))


@dataclass
class TreeBuilder:
    """Adds siblings below nodes of a growing tree; -1 is the last known token."""

    model: ToyModel
    context: Context
    noise: StepNoise
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)

    def path(self, node: int) -> Context:
        return self.context if node < 0 else (*self.path(self.parents[node]), self.tokens[node])

    def draw(self, parent: int, count: int) -> list[int]:
        """Draws siblings without replacement from the draft model."""
        q = self.model.q(self.path(parent))
        return [self._add(parent, token, q) for token in self.noise.draw(len(self.tokens), q, count)]

    def choose(self, parent: int, token: int) -> int:
        return self._add(parent, token, one_hot(token))

    def _add(self, parent: int, token: int, distribution: Distribution) -> int:
        self.tokens.append(token)
        self.parents.append(parent)
        self.distributions.append(distribution)
        return len(self.tokens) - 1

    def draft(self) -> Draft:
        return Draft(tuple(self.tokens), "toy", tuple(self.parents), distributions=tuple(self.distributions))


def drawn_tree(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
    """Two siblings without replacement; two more below the first, one below the second."""
    tree = TreeBuilder(model, context, noise)
    first, *others = tree.draw(-1, 2)
    tree.draw(first, 2)
    for node in others:
        tree.draw(node, 1)
    return tree.draft()


def exhausted_tree(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
    """All tokens that the draft model can give, as siblings."""
    tree = TreeBuilder(model, context, noise)
    tree.draw(-1, model.vocab)
    return tree.draft()


def mixed_tree(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
    """A chosen token first, two drawn siblings (one may be its twin) around a second chosen one; a drawn and a chosen
    child below the first node."""
    tree = TreeBuilder(model, context, noise)
    root = tree.choose(-1, model.guess(context))
    tree.draw(-1, 1)
    tree.choose(-1, (model.guess(context) + 1) % model.vocab)
    tree.draw(root, 1)
    tree.choose(root, 0)
    return tree.draft()


def tree_that_depends_on_what_it_drew(model: ToyModel, context: Context, noise: StepNoise) -> Draft:
    """How many siblings and children there are depends on distributions and on tokens before them."""
    tree = TreeBuilder(model, context, noise)
    first = tree.draw(-1, 1)[0]
    if tree.tokens[first] != 1:
        q = model.q(context)
        rest = np.where(q[0] == tree.tokens[first], 0.0, q[1])
        if rest.any():  # the second sibling, drawn without the first
            tree._add(-1, noise.draw(1, (q[0], rest))[0], q)
    if float(model.q(tree.path(first))[1].max()) > 0.5:
        tree.draw(first, 2)
    return tree.draft()


# --- the exact law of a step ------------------------------------------------------------------------------------------


class Decisions:
    """Stands in for ``StepNoise``: takes the decisions of ``script``, then the first way that is possible, and notes
    the scripts that lead to the other ways."""

    def __init__(self, script: tuple[int, ...]) -> None:
        self.script = script
        self.taken: tuple[int, ...] = ()
        self.probability = 1.0
        self.others: list[tuple[int, ...]] = []

    def choose(self, weights: np.ndarray) -> int:
        weights = np.asarray(weights) / np.sum(weights)
        if len(self.taken) < len(self.script):
            choice = self.script[len(self.taken)]
        else:
            choice, *rest = (int(i) for i in weights.nonzero()[0])
            self.others += [(*self.taken, other) for other in rest]
        self.taken = (*self.taken, choice)
        self.probability *= float(weights[choice])
        return choice

    def draw(self, token: int, distribution: Distribution, count: int = 1, stream: int = 0) -> list[int]:
        ids, weights = distribution
        drawn: list[int] = []
        while len(drawn) < count and weights.any():
            place = self.choose(weights)
            drawn.append(int(ids[place]))
            weights = np.where(ids == drawn[-1], 0.0, weights)
        return drawn

    def accepts(self, token: int, probability: float) -> bool:
        share = min(1.0, probability)
        return self.choose(np.array([1.0 - share, share])) == 1

    def residual(self, weights: np.ndarray) -> int:
        return self.choose(weights)

    def bonus(self, depth: int, weights: np.ndarray) -> int:
        return self.choose(weights)


def outcomes(
    model: ToyModel,
    context: Context,
    drafting: Drafting,
    rule: Callable[[Draft, ToyTarget], Verified],
    broken_rows: tuple[int, ...] = (),
) -> Iterator[tuple[float, Draft, Verified]]:
    """Everything that drafting and verifying behind ``context`` can give, with its probability."""
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        decisions = Decisions(scripts.pop())
        draft = drafting(model, context, decisions)
        outcome = rule(draft, ToyTarget(model, context, draft, decisions, broken_rows))
        yield decisions.probability, draft, outcome
        scripts += decisions.others


def emitted_law(*args: object, length: int, **kwargs: object) -> Law:
    """The exact law of the next ``length`` tokens when the first step is ``outcomes(...)``."""
    law: Law = defaultdict(float)
    for probability, _, outcome in outcomes(*args, **kwargs):
        law[tuple(outcome.token_ids)] += probability
    return extend(args[0], args[1], law, length)


def mean_accepted(*args: object) -> float:
    """Expected number of accepted draft tokens."""
    return sum(probability * outcome.num_accepted for probability, _, outcome in outcomes(*args))
