"""Several drafts as one tree: what is shared, who gains by whose word, whose each token is."""

from __future__ import annotations

import random

import pytest

from paceline.speculation.agreement import Agreement
from paceline.speculation.calibration import outcomes_of
from paceline.speculation.draft import Draft
from paceline.speculation.merge import Lesson, Merged, Pair, Proposal, merge
from paceline.speculation.scores import fates_of
from paceline.speculation.verify import match_sampled


def trusting(pair: Pair) -> float:
    return 1.0


def chain(name: str, tokens: str, *survival: float) -> Proposal:
    return Proposal(Draft(tuple(map(ord, tokens)), name), survival)


def shown(merged: Merged) -> dict[str, tuple[float, str]]:
    """Survival and proposer by path."""
    draft = merged.draft
    parents = range(-1, len(draft) - 1) if draft.parents is None else draft.parents
    paths: list[str] = []
    for token, parent in zip(draft.token_ids, parents, strict=True):
        paths.append((paths[parent] if parent >= 0 else "") + chr(token))
    assert len(set(paths)) == len(paths)
    return {path: (merged.survival[i], draft.proposer(i)) for i, path in enumerate(paths)}


def close(found: dict[str, tuple[float, str]], wanted: dict[str, tuple[float, str]]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[path] == (pytest.approx(survival), name) for path, (survival, name) in wanted.items()
    )


def test_one_proposal_stays_as_it_is() -> None:
    merged = merge([chain("a", "xyz", 0.9, 0.5, 0.4)], trusting)
    assert merged.draft.parents is None and merged.draft.token_ids == (120, 121, 122)
    assert merged.survival == pytest.approx([0.9, 0.5, 0.4]) and merged.places == [[0, 1, 2]]


def test_a_branch_of_the_weaker_one_survives_where_the_stronger_one_is_wrong() -> None:
    merged = merge([chain("a", "xy", 0.8, 0.4), chain("b", "xz", 0.5, 0.3)], lambda pair: float(not pair.agree))
    assert close(shown(merged), {"x": (0.8, "a"), "xy": (0.4, "a"), "xz": (0.8 * (1 - 0.5) * 0.6, "b")})


def test_two_that_agree_are_two_witnesses_as_far_as_the_second_is_news() -> None:
    for weight, survival in ((0.0, 0.8), (0.5, 0.8 + 0.5 * 0.2 * 0.5), (1.0, 1 - 0.2 * 0.5)):
        merged = merge([chain("a", "x", 0.8), chain("b", "x", 0.5)], lambda pair, weight=weight: weight)
        assert close(shown(merged), {"x": (survival, "a")})
        assert merged.draft.parents is None


def test_what_only_one_says_stands() -> None:
    merged = merge([chain("a", "x", 0.8), chain("b", "xyz", 0.5, 0.4, 0.2)], lambda pair: 0.0)
    assert close(shown(merged), {"x": (0.8, "a"), "xy": (0.8 * 0.8, "b"), "xyz": (0.8 * 0.4, "b")})
    assert merged.places == [[0], [0, 1, 2]]


def test_trees_and_a_third_drafter() -> None:
    tree = Proposal(Draft((1, 2, 3), "a", (-1, -1, 0)), (0.5, 0.3, 0.25))
    other = Proposal(Draft((2, 4), "b"), (0.6, 0.3))
    third = Proposal(Draft((5,), "c"), (0.9,))
    merged = merge([tree, other, third], trusting)
    first, second = 0.3 + 0.2 * 0.6, 0.9 * (1 - 0.8 - 0.2 * 0.6)
    expected = {(1,): 0.5, (2,): first, (1, 3): 0.25, (2, 4): first * 0.5, (5,): second}
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(merged.draft.token_ids, merged.draft.parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    assert dict(zip(paths, merged.survival, strict=True)) == pytest.approx(expected)


def random_proposal(name: str, rng: random.Random, branching: bool) -> Proposal:
    tokens, parents, survival = [], [], []
    for i in range(rng.randrange(1, 9)):
        parent = rng.randrange(-1, i) if branching else i - 1
        tokens.append(rng.randrange(3))
        parents.append(parent)
        survival.append((survival[parent] if parent >= 0 else 1.0) * rng.random())
    return Proposal(Draft(tuple(tokens), name, tuple(parents) if branching else None), survival)


@pytest.mark.parametrize("seed", range(200))
def test_of_any_proposals(seed: int) -> None:
    rng = random.Random(seed)
    proposals = [random_proposal(name, rng, rng.random() < 0.5) for name in "abc"[: rng.randrange(1, 4)]]
    merged = merge(proposals, lambda pair: rng.random())
    draft, survival = merged.draft, merged.survival
    parents = range(-1, len(draft) - 1) if draft.parents is None else draft.parents

    assert survival == sorted(survival, reverse=True) and min(survival) >= 0.0 and max(survival) <= 1.0
    for above in {*parents}:
        mass = sum(s for s, parent in zip(survival, parents, strict=True) if parent == above)
        assert mass <= (survival[above] if above >= 0 else 1.0) + 1e-9, "siblings exclude each other"
    for proposal, places in zip(proposals, merged.places, strict=True):
        own = range(-1, len(proposal.draft) - 1) if proposal.draft.parents is None else proposal.draft.parents
        for token, parent, place in zip(proposal.draft.token_ids, own, places, strict=True):
            assert draft.token_ids[place] == token
            assert parents[place] == (places[parent] if parent >= 0 else -1)
    if proposals[0].draft.parents is None:  # no siblings of its own that could sum above 1
        for own_survival, place in zip(proposals[0].survival, merged.places[0], strict=True):
            assert survival[place] >= own_survival - 1e-9, "the most trusted one never loses"

    text = [rng.randrange(3) for _ in range(12)]
    outcome = match_sampled(_Rows(draft, text), draft)
    assert outcome.token_ids == text[: len(outcome.token_ids)]
    longest = max(sum(one is True for one in outcomes_of(p.draft.token_ids, p.draft.parents, text)) for p in proposals)
    assert outcome.num_accepted >= longest, "nothing that one drafter had right is lost"


class _Rows:
    """The target's token behind each row, where ``text`` is what it says; elsewhere something else."""

    def __init__(self, draft: Draft, text: list[int]) -> None:
        parents = range(-1, len(draft) - 1) if draft.parents is None else draft.parents
        self.tokens = [text[0]]
        paths: list[list[int]] = []
        for token, parent in zip(draft.token_ids, parents, strict=True):
            paths.append([*(paths[parent] if parent >= 0 else []), token])
            self.tokens.append(text[len(paths[-1])] if paths[-1] == text[: len(paths[-1])] else 7)

    def __getitem__(self, row: int) -> int:
        return self.tokens[row]


def test_a_part_of_a_merged_draft_is_told_who_proposed_it() -> None:
    merged = merge([chain("a", "xy", 0.8, 0.1), chain("b", "xz", 0.5, 0.4)], trusting)
    part = merged.draft.trim(2)
    assert part.token_ids == (120, 122) and part.parents is None and part.drafters == ("a", "b")


def test_fates_of_a_tree() -> None:
    assert fates_of((-1, -1, 0, 1, 2), [False, True, None, False, None], 5) == [False, True, False, False, False]
    assert fates_of(None, [True, False], 4) == [True, False, False, False]
    assert fates_of(None, [True], 3) == [True, None, None]


class TestAgreement:
    def test_a_second_word_that_is_no_news_stops_counting_and_one_that_is_counts_whole(self) -> None:
        echo, witness = Pair("a", "echo", True), Pair("a", "witness", True)
        agreement, rng = Agreement(), random.Random(1)
        unknown = agreement.weight(echo)
        for _ in range(2000):
            agreement.learn([Lesson(echo, 0, 0.6, 0.24)], [rng.random() < 0.6])
            agreement.learn([Lesson(witness, 0, 0.6, 0.24)], [rng.random() < 0.84])
        assert agreement.weight(echo) < 0.1 < unknown < 0.5 and agreement.weight(witness) > 0.8

    def test_pairs_are_told_apart_and_unknown_outcomes_teach_nothing(self) -> None:
        agreement, pair = Agreement(), Pair("a", "b", True)
        start = agreement.weight(pair)
        agreement.learn([Lesson(pair, 1, 0.2, 0.5)], [True])
        agreement.learn([Lesson(pair, 0, 0.2, 0.5)], [None])
        assert agreement.weight(pair) == start
        agreement.learn([Lesson(pair, 0, 0.2, 0.5)], [True])
        assert agreement.weight(pair) > start == agreement.weight(Pair("a", "b", False))
