"""Several drafters' proposals for one sequence as one token tree. Pure: proposals and survivals in, a tree out."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import NamedTuple

from paceline.speculation.draft import Draft


class Proposal(NamedTuple):
    """A chosen (not drawn) draft; ``survival[i]`` is the probability that its token ``i`` and all ancestors of it are
    accepted, as it is believed when nothing is known of other drafts."""

    draft: Draft
    survival: Seq[float]


class Pair(NamedTuple):
    """Two drafters at one place of the text: the weaker one names the stronger one's token, or another."""

    stronger: str
    weaker: str
    agree: bool


class Lesson(NamedTuple):
    """What a token's outcome will say of a pair: token ``place`` of the tree was given the probability ``before``
    without the weaker drafter's word, given its parent's acceptance, and ``before + weight * gain`` with it."""

    pair: Pair
    place: int
    before: float
    gain: float


@dataclass(frozen=True, slots=True)
class Merged:
    """``draft``: tokens by falling ``survival``, parents before children; its ``drafters`` say whose each token is.
    ``places[k][i]``: where token ``i`` of proposal ``k`` stands in it."""

    draft: Draft
    survival: list[float]
    places: list[list[int]]
    lessons: list[Lesson]


def merge(proposals: Seq[Proposal], weight: Callable[[Pair], float]) -> Merged:
    """The union of ``proposals``, the one that is trusted most first; common prefixes are shared.

    At each place of the text the first drafter that says something there spreads a probability mass S <= 1 over its
    tokens. What is left, 1 - S, goes to the next one, which spreads its own over it, and so on: with b its probability
    of a token, that token gets

        weight * (1 - S) * b    on top of what it has.

    So a token that the drafters agree on gains (with weight 1 as from two independent witnesses, 1 - (1-a)(1-b)), and
    another token survives only where the stronger drafter is wrong. Siblings never sum above 1, the strongest
    proposal's tokens never lose (as long as its own siblings do not sum above 1), and where only one drafter says
    something its word stands. ``weight`` in [0, 1] says how much of a weaker drafter's word is news: one that repeats
    what the other looks at as well adds nothing by agreeing, however sure it is.

    A shared token belongs to the first proposal that has it.
    """
    tree = _Tree()
    places = [tree.add(proposal, weight) for proposal in proposals]
    survival: list[float] = []
    for parent, share in zip(tree.parents, tree.shares, strict=True):
        survival.append(share if parent < 0 else share * survival[parent])
    order = sorted(range(len(survival)), key=survival.__getitem__, reverse=True)  # stable: parents stay first
    where = [-1] * (len(order) + 1)  # the last entry stands for -1
    for new, old in enumerate(order):
        where[old] = new
    parents = tuple(where[tree.parents[i]] for i in order)
    draft = Draft(
        tuple(tree.tokens[i] for i in order),
        proposals[0].draft.drafter,
        parents=None if parents == tuple(range(-1, len(order) - 1)) else parents,
        drafters=tuple(tree.owners[i] for i in order),
    )
    lessons = [lesson._replace(place=where[lesson.place]) for lesson in tree.lessons]
    return Merged(draft, [survival[i] for i in order], [[where[i] for i in own] for own in places], lessons)


@dataclass(slots=True)
class _Tree:
    """Nodes in the order in which they came. ``shares``: probability of a node where its parent is accepted."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    children: dict[int, dict[int, int]] = field(default_factory=dict)  # nodes by parent and token
    masses: dict[int, float] = field(default_factory=dict)  # sum of the children's shares
    lessons: list[Lesson] = field(default_factory=list)

    def add(self, proposal: Proposal, weight: Callable[[Pair], float]) -> list[int]:
        """The nodes of the proposal's tokens."""
        draft, survival = proposal
        parents = range(-1, len(draft) - 1) if draft.parents is None else draft.parents
        shares = _shares(parents, survival)
        nodes: list[int] = []
        taken: dict[int, float] = {}  # mass that stronger drafters gave away, by node
        leaders: dict[int, str] = {}  # whose strongest child a node has
        for token, parent, share in zip(draft.token_ids, parents, shares, strict=True):
            above = -1 if parent < 0 else nodes[parent]
            siblings = self.children.setdefault(above, {})
            if above not in taken:
                taken[above] = self.masses.setdefault(above, 0.0)
                if siblings:
                    leaders[above] = self.owners[max(siblings.values(), key=self.shares.__getitem__)]
            node = siblings.get(token)
            agree = node is not None
            if node is None:
                node = self._new(siblings, token, above, draft.drafter)
            gain = (1.0 - taken[above]) * share
            leader = self.owners[node] if agree else leaders.get(above)
            if above in leaders and leader is not None and leader != draft.drafter:
                pair = Pair(leader, draft.drafter, agree)
                self.lessons.append(Lesson(pair, node, self.shares[node], gain))
                gain *= weight(pair)
            gain = min(gain, max(0.0, 1.0 - self.masses[above]))  # binds where twins say the same thing twice
            self.shares[node] += gain
            self.masses[above] += gain
            nodes.append(node)
        return nodes

    def _new(self, siblings: dict[int, int], token: int, parent: int, owner: str) -> int:
        node = siblings[token] = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.shares.append(0.0)
        self.owners.append(owner)
        return node


def _shares(parents: Seq[int], survival: Seq[float]) -> list[float]:
    """Each token's probability given its parent's acceptance; siblings that sum above 1 are scaled down to it."""
    shares: list[float] = []
    sums: dict[int, float] = {}
    for own, parent in zip(survival, parents, strict=True):
        above = 1.0 if parent < 0 else survival[parent]
        share = min(1.0, own / above) if above > 0.0 else 0.0
        shares.append(share)
        sums[parent] = sums.get(parent, 0.0) + share
    return [share / max(1.0, sums[parent]) for share, parent in zip(shares, parents, strict=True)]
