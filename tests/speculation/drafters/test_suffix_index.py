"""Drafts of the native index against the naive reference, and the bounds of its memory."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffix_reference import NaiveTree, Text, likeliest_tree

from paceline._suffix import MANY_CONTINUATIONS, MAX_DRAFT, SuffixIndex

DEPTH, FACTOR = 1000, 4.0  # deeper than any text here


def draft_of(index: SuffixIndex, sequence: int, new: list[int], length: int) -> tuple[int, ...]:
    """The likeliest chain behind ``new``."""
    (draft,) = index.step([sequence], new, [len(new)], [length], 0.0, 1.0)
    if draft is None:
        return ()
    assert draft[1] is None, "no sibling is certain"
    return draft[0]


class Checked:
    """An index without a limit, and the same texts in naive trees."""

    def __init__(self, depth: int = DEPTH) -> None:
        self.depth = depth
        self.index = SuffixIndex(depth, 10**6, FACTOR)
        self.own: dict[int, NaiveTree] = {}
        self.recent: dict[int, NaiveTree] = {}
        self.place: dict[int, tuple[int, int]] = {}  # adapter and number of the text in ``recent``

    def open(self, adapter: int, prompt: list[int]) -> int:
        sequence = self.index.open(adapter, -1, 0, len(prompt), len(prompt))
        self.own[sequence] = NaiveTree(self.depth)
        self.own[sequence].texts[0] = []
        recent = self.recent.setdefault(adapter, NaiveTree(self.depth))
        self.place[sequence] = adapter, len(recent.texts)
        recent.texts[len(recent.texts)] = []
        self.index.extend(sequence, prompt)
        self.own[sequence].texts[0] += prompt
        return sequence

    def draft(self, sequence: int, new: list[int], length: int, first: float = 0.0, other: float = 0.0) -> None:
        adapter, text = self.place[sequence]
        self.own[sequence].texts[0] += new
        self.recent[adapter].texts[text] += new
        (draft,) = self.index.step([sequence], new, [len(new)], [length], first, other)
        own, recent = self.own[sequence], self.recent[adapter]
        expected = likeliest_tree(
            Text(own.counts(), own.texts[0], recent=False),
            Text(recent.counts(), recent.texts[text], recent=True),
            length, FACTOR, first, other,
        )  # fmt: skip
        if draft is None:
            assert expected == []
            return
        tokens, parents, confidence = draft
        chain = range(-1, len(tokens) - 1)
        assert parents is None or parents != tuple(chain), "a chain has no parents"
        assert list(zip(tokens, chain if parents is None else parents, strict=True)) == [e[:2] for e in expected]
        assert list(confidence) == pytest.approx([e[2] for e in expected], rel=1e-5)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=4), st.integers(1, 9)),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.integers(0, 3), max_size=12),
    st.sampled_from((0.0, 0.03, 0.2)),
    st.sampled_from((0.0, 0.1, 1.0)),
)
def test_drafts_are_those_of_the_reference(steps: list, prompt: list[int], first: float, other: float) -> None:
    checked = Checked()
    sequences = [checked.open(adapter, prompt[i:]) for i, adapter in enumerate((0, 0, 0, 1))]
    for which, new, length in steps:
        checked.draft(sequences[which], new, length, first, other)


def test_a_text_that_ended_like_this_one_says_nothing() -> None:
    """Whichever of the two came first."""
    checked = Checked()
    first, second = (checked.open(0, []) for _ in range(2))
    for sequence, new in ((first, [1] * 4), (second, [1]), (second, [1] * 4), (first, [1]), (second, [1])):
        checked.draft(sequence, new, 4)


def test_of_a_match_with_many_continuations_only_the_best_and_those_of_longer_matches_are_counted() -> None:
    chance = random.Random(1)
    checked = Checked(depth=20)
    sequence = checked.open(0, [chance.choice((0, 0, 0, 1, 2, 3)) for _ in range(8 * MANY_CONTINUATIONS)])
    for _ in range(40):
        checked.draft(sequence, [chance.choice((0, 0, 0, 1, 2, 3))], 8)


def test_probabilities_of_siblings_have_a_sum_of_at_most_1() -> None:
    chance = random.Random(2)
    index = SuffixIndex(64, 10**6, FACTOR)
    sequence = index.open(0, -1, 0, 0, 0)
    branches = 0
    for _ in range(600):
        (draft,) = index.step([sequence], [chance.choice((0, 0, 1, 1, 2))], [1], [63], 0.0, 0.0)
        if draft is None or draft[1] is None:
            continue
        sums: dict[int, float] = {}
        for parent, confidence in zip(draft[1], draft[2], strict=True):
            sums[parent] = sums.get(parent, 0.0) + confidence
        assert max(sums.values()) < 1.0
        branches += 1
    assert branches > 500


def test_the_second_best_continuation_is_a_sibling_where_it_is_likely_enough() -> None:
    index = SuffixIndex(64, 0, FACTOR)
    sequence = index.open(0, -1, 0, 0, 0)
    index.extend(sequence, [1, 2, 3, 9, 7, 1, 2, 4, 8, 6, 1, 2, 3, 9, 5, 1, 2])
    (draft,) = index.step([sequence], [], [0], [20], 0.1, 0.1)
    assert draft is not None
    tokens, parents, confidence = draft
    assert parents is not None and tokens[:2] == (3, 9) and parents[:2] == (-1, 0)
    rival = tokens.index(4)
    assert parents[rival] == -1 and 0.1 <= confidence[rival] < confidence[0]
    (draft,) = index.step([sequence], [], [0], [20], 0.1, confidence[rival] + 0.01)
    assert draft is not None and draft[1] is None and draft[0][:2] == (3, 9) and 4 not in draft[0]


def test_a_longer_match_weighs_more_than_a_more_frequent_one() -> None:
    index = SuffixIndex(64, 0, FACTOR)
    sequence = index.open(0, -1, 0, 0, 0)
    index.extend(sequence, [5, 6, 7, 8, 1, 8, 2, 8, 2, 0, 5, 6, 7, 8])
    assert draft_of(index, sequence, [], 1) == (1,)


def test_agreement_of_own_text_and_recent_outputs_makes_surer() -> None:
    def confidence(recent: list[int]) -> float:
        index = SuffixIndex(64, 1000, FACTOR)
        other = index.open(0, -1, 0, 0, 0)
        index.extend(other, recent)
        sequence = index.open(0, -1, 0, 0, 0)
        (draft,) = index.step([sequence], [1, 2, 3, 9, 1, 2], [6], [1], 0.0, 1.0)
        assert draft is not None and draft[0] == (3,)
        return draft[2][0]

    assert confidence([1, 2, 4]) < confidence([7, 7, 7]) < confidence([1, 2, 3])


def test_a_long_match_drafts_beyond_the_depth_of_the_trees() -> None:
    index = SuffixIndex(8, 0, FACTOR)
    document = list(range(100))
    sequence = index.open(0, -1, 0, 0, 0)
    index.extend(sequence, [*document, 500, *document[:20]])
    assert draft_of(index, sequence, [], 25) == tuple(document[20:45])


def test_drafts_are_never_longer_than_asked_for() -> None:
    index = SuffixIndex(64, 100, FACTOR)
    sequence = index.open(0, -1, 0, 0, 0)
    index.extend(sequence, list(range(300)) * 2)
    for length in (1, 2, 63, 1000):
        assert len(draft_of(index, sequence, [], length)) == min(length, MAX_DRAFT)
    assert index.step([sequence], [], [0], [0], 0.0, 1.0) == [None]


def test_paths_are_no_longer_than_the_match_allows() -> None:
    for factor, length in ((0.3, 0), (1.0, 3), (2.5, 7)):
        index = SuffixIndex(64, 0, factor)
        sequence = index.open(0, -1, 0, 0, 0)
        index.extend(sequence, [*range(100), *range(50, 53)])
        assert len(draft_of(index, sequence, [], 20)) == length


@pytest.mark.parametrize("tokens", [[], [5], [5, 6]])
def test_nothing_that_was_there_before_means_no_draft(tokens: list[int]) -> None:
    index = SuffixIndex(64, 100, FACTOR)
    sequence = index.open(0, -1, 0, 0, 0)
    assert index.step([sequence], tokens, [len(tokens)], [5], 0.0, 0.0) == [None]


def test_confidence_grows_with_the_match_and_with_the_share() -> None:
    def confidence(text: list[int]) -> float:
        index = SuffixIndex(64, 0, FACTOR)
        sequence = index.open(0, -1, 0, 0, 0)
        (draft,) = index.step([sequence], text, [len(text)], [1], 0.0, 1.0)
        assert draft is not None
        return draft[2][0]

    short, long = [1, 2, 0, 9, 1], [7, 8, 1, 2, 0, 9, 7, 8, 1]
    assert confidence(short) < confidence(long)
    always, mostly = [1, 2, 3] * 4 + [1], [1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 5, 5, 1]
    assert confidence(mostly) < confidence(always)


def test_equal_histories_give_equal_drafts_whatever_came_and_went() -> None:
    chance = random.Random(3)
    texts = [[chance.randrange(6) for _ in range(60)] for _ in range(12)]
    drafts = []
    for noise in range(3):
        index = SuffixIndex(64, 20 * 60, FACTOR)
        for _ in range(noise * 25):  # fills the index with other texts, which the real ones push out
            other = index.open(0, -1, 0, 0, 0)
            index.extend(other, [chance.randrange(6) for _ in range(60)])
            index.close(other)
        for text in texts * 2:
            sequence = index.open(0, -1, 0, 0, 0)
            index.extend(sequence, text)
            index.close(sequence)
        for text in texts[:4] * 2:
            sequence = index.open(0, -1, 0, 0, 0)
            drafts.append([index.step([sequence], [token], [1], [5], 0.0, 0.0) for token in text[:30]])
            index.close(sequence)
        half = len(drafts) // (noise + 1)
        assert drafts[:half] == drafts[-half:]


def test_memory_stays_within_its_bound_however_many_outputs_there_are() -> None:
    chance = random.Random(4)
    index = SuffixIndex(64, 2000, FACTOR)
    most = 0
    for count in range(400):
        adapter = chance.randrange(30)
        sequence = index.open(adapter, -1, 0, 0, 0)
        index.extend(sequence, [chance.randrange(50) for _ in range(chance.randrange(300))])
        assert index.num_cached <= 2000
        index.close(sequence)
        if count == 100:
            most = index.bytes
    assert index.num_sequences == 0
    assert index.bytes < 1.2 * most


def test_a_running_sequence_alone_cannot_exceed_the_bound() -> None:
    index = SuffixIndex(64, 50, FACTOR)
    first, second = (index.open(0, -1, 0, 0, 0) for _ in range(2))
    for token in range(500):
        index.step([first, second], [token, token + 1000], [1, 1], [3, 3], 0.0, 1.0)
        assert index.num_cached <= 50
    index.close(first)
    index.close(second)
    third = index.open(0, -1, 0, 0, 0)
    assert draft_of(index, third, [1480], 3) == (1481, 1482, 1483)


def test_the_output_that_ended_first_goes_first() -> None:
    index = SuffixIndex(64, 30, FACTOR)
    for base in (100, 200, 300, 400):
        sequence = index.open(0, -1, 0, 0, 0)
        index.extend(sequence, list(range(base, base + 10)))
        index.close(sequence)

    def known(token: int) -> bool:
        sequence = index.open(0, -1, 0, 0, 10)
        found = draft_of(index, sequence, [token], 1)
        index.close(sequence)
        return bool(found)

    assert [known(base + 5) for base in (100, 200, 300, 400)] == [False, True, True, True]


def test_an_output_that_never_came_leaves_nothing() -> None:
    index = SuffixIndex(64, 1000, FACTOR)
    sequence = index.open(0, -1, 0, 5, 20)
    index.extend(sequence, list(range(20)))
    assert index.num_cached == 15
    index.close(sequence)
    assert index.num_cached == 0


def test_bad_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="max_depth must be at least 1"):
        SuffixIndex(0, 10, FACTOR)
    index = SuffixIndex(64, 10, FACTOR)
    with pytest.raises(IndexError, match="no sequence 3"):
        index.step([3], [], [0], [1], 0.0, 0.0)
    sequence = index.open(0, -1, 0, 0, 0)
    with pytest.raises(ValueError, match="counts exceed"):
        index.step([sequence], [1], [2], [1], 0.0, 0.0)
    with pytest.raises(ValueError, match="negative"):
        index.extend(sequence, [-1])
    index.close(sequence)
    with pytest.raises(IndexError):
        index.close(sequence)
