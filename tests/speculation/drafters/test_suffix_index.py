"""Drafts of the native index against the naive reference, and the bounds of its memory."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffix_reference import NaiveTree, best_draft

from paceline._suffix import MAX_DRAFT, SuffixIndex

DEPTH, FACTOR, LEAST = 200, 4.0, 0.13  # deeper than any text here


class Checked:
    """An index without a limit, and the same texts in naive trees."""

    def __init__(self) -> None:
        self.index = SuffixIndex(DEPTH, 10**6, FACTOR, LEAST)
        self.own: dict[int, NaiveTree] = {}
        self.recent: dict[int, NaiveTree] = {}
        self.place: dict[int, tuple[int, int]] = {}  # adapter and number of the text in ``recent``

    def open(self, adapter: int, prompt: list[int]) -> int:
        sequence = self.index.open(adapter, -1, 0, len(prompt), len(prompt))
        self.own[sequence] = NaiveTree(DEPTH)
        self.own[sequence].texts[0] = []
        recent = self.recent.setdefault(adapter, NaiveTree(DEPTH))
        self.place[sequence] = adapter, len(recent.texts)
        recent.texts[len(recent.texts)] = []
        self.index.extend(sequence, prompt)
        self.own[sequence].texts[0] += prompt
        return sequence

    def draft(self, sequence: int, new: list[int], length: int) -> None:
        adapter, text = self.place[sequence]
        self.own[sequence].texts[0] += new
        self.recent[adapter].texts[text] += new
        (draft,) = self.index.step([sequence], new, [len(new)], [length])
        trees = [(tree.counts(), tree.texts[i]) for tree, i in ((self.own[sequence], 0), (self.recent[adapter], text))]
        expected = best_draft(trees, DEPTH, length, FACTOR, LEAST)
        assert ([] if draft is None else list(draft[0])) == expected
        if draft is not None:
            assert len(draft[1]) == len(expected)
            assert all(0.0 < confidence <= 1.0 for confidence in draft[1])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=4), st.integers(1, 9)),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.integers(0, 3), max_size=12),
)
def test_drafts_are_those_of_the_reference(steps: list, prompt: list[int]) -> None:
    checked = Checked()
    sequences = [checked.open(adapter, prompt[i:]) for i, adapter in enumerate((0, 0, 0, 1))]
    for which, new, length in steps:
        checked.draft(sequences[which], new, length)


def test_a_long_match_drafts_beyond_the_depth_of_the_trees() -> None:
    index = SuffixIndex(8, 0, FACTOR, LEAST)
    document = list(range(100))
    sequence = index.open(0, -1, 0, 0, 0)
    index.extend(sequence, [*document, 500, *document[:20]])
    (draft,) = index.step([sequence], [], [0], [25])
    assert draft is not None and list(draft[0]) == document[20:45]


def test_drafts_are_never_longer_than_asked_for() -> None:
    index = SuffixIndex(64, 100, FACTOR, LEAST)
    sequence = index.open(0, -1, 0, 0, 0)
    index.extend(sequence, list(range(300)) * 2)
    for length in (1, 2, 63, 1000):
        (draft,) = index.step([sequence], [], [0], [length])
        assert draft is not None and len(draft[0]) == min(length, MAX_DRAFT)
    assert index.step([sequence], [], [0], [0]) == [None]


@pytest.mark.parametrize("tokens", [[], [5], [5, 6]])
def test_nothing_that_was_there_before_means_no_draft(tokens: list[int]) -> None:
    index = SuffixIndex(64, 100, FACTOR, LEAST)
    sequence = index.open(0, -1, 0, 0, 0)
    assert index.step([sequence], tokens, [len(tokens)], [5]) == [None]


def test_confidence_grows_with_the_match_and_with_the_share() -> None:
    def confidence(text: list[int]) -> float:
        index = SuffixIndex(64, 0, FACTOR, LEAST)
        sequence = index.open(0, -1, 0, 0, 0)
        (draft,) = index.step([sequence], text, [len(text)], [1])
        assert draft is not None
        return draft[1][0]

    short, long = [1, 2, 0, 9, 1], [7, 8, 1, 2, 0, 9, 7, 8, 1]
    assert confidence(short) < confidence(long)
    always, mostly = [1, 2, 3] * 4 + [1], [1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 5, 5, 1]
    assert confidence(mostly) < confidence(always)


def test_equal_histories_give_equal_drafts_whatever_came_and_went() -> None:
    chance = random.Random(3)
    texts = [[chance.randrange(6) for _ in range(60)] for _ in range(12)]
    drafts = []
    for noise in range(3):
        index = SuffixIndex(64, 20 * 60, FACTOR, LEAST)
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
            drafts.append([index.step([sequence], [token], [1], [5]) for token in text[:30]])
            index.close(sequence)
        half = len(drafts) // (noise + 1)
        assert drafts[:half] == drafts[-half:]


def test_memory_stays_within_its_bound_however_many_outputs_there_are() -> None:
    chance = random.Random(4)
    index = SuffixIndex(64, 2000, FACTOR, LEAST)
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
    index = SuffixIndex(64, 50, FACTOR, LEAST)
    first, second = (index.open(0, -1, 0, 0, 0) for _ in range(2))
    for token in range(500):
        index.step([first, second], [token, token + 1000], [1, 1], [3, 3])
        assert index.num_cached <= 50
    index.close(first)
    index.close(second)
    third = index.open(0, -1, 0, 0, 0)
    (draft,) = index.step([third], [1480], [1], [3])
    assert draft is not None and draft[0] == (1481, 1482, 1483)


def test_the_output_that_ended_first_goes_first() -> None:
    index = SuffixIndex(64, 30, FACTOR, LEAST)
    for base in (100, 200, 300, 400):
        sequence = index.open(0, -1, 0, 0, 0)
        index.extend(sequence, list(range(base, base + 10)))
        index.close(sequence)

    def known(token: int) -> bool:
        sequence = index.open(0, -1, 0, 0, 10)
        (draft,) = index.step([sequence], [token], [1], [1])
        index.close(sequence)
        return draft is not None

    assert [known(base + 5) for base in (100, 200, 300, 400)] == [False, True, True, True]


def test_an_output_that_never_came_leaves_nothing() -> None:
    index = SuffixIndex(64, 1000, FACTOR, LEAST)
    sequence = index.open(0, -1, 0, 5, 20)
    index.extend(sequence, list(range(20)))
    assert index.num_cached == 15
    index.close(sequence)
    assert index.num_cached == 0


def test_bad_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="max_depth must be at least 1"):
        SuffixIndex(0, 10, FACTOR, LEAST)
    index = SuffixIndex(64, 10, FACTOR, LEAST)
    with pytest.raises(IndexError, match="no sequence 3"):
        index.step([3], [], [0], [1])
    sequence = index.open(0, -1, 0, 0, 0)
    with pytest.raises(ValueError, match="counts exceed"):
        index.step([sequence], [1], [2], [1])
    with pytest.raises(ValueError, match="negative"):
        index.extend(sequence, [-1])
    index.close(sequence)
    with pytest.raises(IndexError):
        index.close(sequence)
