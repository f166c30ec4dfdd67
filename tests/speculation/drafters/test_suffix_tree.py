"""The native suffix tree against counts of all substrings."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffix_reference import NaiveTree

from paceline._suffix import SuffixTree

#: What happens to a tree: ("open",), ("append", which text, token), ("close" | "drop" | "remove", which text)
ACTIONS = st.lists(
    st.one_of(
        st.just(("open", 0, 0)),
        st.tuples(st.just("append"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("append"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("append"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("run"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.sampled_from(["close", "drop", "remove"]), st.integers(0, 5), st.just(0)),
    ),
    max_size=120,
)


class Pair:
    """The same texts in both trees."""

    def __init__(self, max_depth: int, segments: int = 1) -> None:
        self.tree = SuffixTree(max_depth, segments)
        self.root = self.tree.add_root()
        self.naive = NaiveTree(max_depth)
        self.growing: list[int] = []
        self.there: list[int] = []

    def open(self) -> int:
        text = self.tree.open(self.root)
        assert text not in self.naive.texts
        self.naive.texts[text] = []
        self.growing.append(text)
        self.there.append(text)
        return text

    def append(self, text: int, *tokens: int) -> None:
        for token in tokens:
            self.tree.append(text, token)
            self.naive.texts[text].append(token)

    def close(self, text: int) -> None:
        self.tree.close(text)
        self.growing.remove(text)

    def remove(self, text: int) -> None:
        if self.naive.removed[text] < len(self.naive.texts[text]):
            self.tree.remove_first(text)
            self.naive.removed[text] += 1

    def drop(self, text: int) -> None:
        self.tree.drop(text)
        del self.naive.texts[text], self.naive.removed[text]
        self.there.remove(text)
        if text in self.growing:
            self.growing.remove(text)

    def act(self, action: tuple[str, int, int]) -> None:
        name, which, token = action
        if name == "open":
            self.open()
            return
        texts = self.there if name in ("drop", "remove") else self.growing
        if not texts:
            return
        text = texts[which % len(texts)]
        if name in ("append", "run"):
            self.append(text, *[token] * (1 if name == "append" else 9))
        else:
            getattr(self, name)(text)

    def check(self) -> None:
        assert self.tree.nodes(self.root) == self.naive.nodes()


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 7), ACTIONS)
def test_the_tree_is_the_one_that_its_suffixes_define(max_depth: int, actions: list) -> None:
    pair = Pair(max_depth)
    for action in actions:
        pair.act(action)
        pair.check()


@pytest.mark.parametrize("max_depth", [1, 2, 8, 64])
@pytest.mark.parametrize("vocabulary", [1, 2, 5])
def test_removal_in_any_order_leaves_the_tree_of_the_rest(max_depth: int, vocabulary: int) -> None:
    chance = random.Random(max_depth * 10 + vocabulary)
    pair = Pair(max_depth, segments=4)
    for _ in range(8):
        pair.open()
    for _ in range(300):  # they grow at the same time, some of them in step
        text, token = chance.randrange(8), chance.randrange(vocabulary)
        pair.append(text, token)
        if chance.random() < 0.5:
            pair.append((text + 1) % 8, token)
    pair.check()
    order = list(pair.there)
    chance.shuffle(order)
    for text in order:
        for _ in range(chance.randrange(20)):
            pair.remove(text)
        pair.check()
        pair.drop(text)
        pair.check()
    assert pair.tree.num_nodes == 1  # the root


def test_texts_in_step_share_their_leaf_until_they_part() -> None:
    pair = Pair(8)
    first, second = pair.open(), pair.open()
    for token in range(20):
        pair.append(first, token)
        pair.append(second, token)
        pair.check()
    pair.append(second, 50, 51)
    pair.append(first, 60)
    pair.check()


def test_a_text_that_overtakes_another_does_not_lose_it() -> None:
    pair = Pair(8)
    first, second = pair.open(), pair.open()
    pair.append(first, 1, 2, 3)
    pair.append(second, 1, 2, 3, 4, 5)
    pair.append(first, 4)
    pair.check()
    pair.append(first, 9)
    pair.check()
    pair.drop(second)
    pair.append(first, 7)
    pair.check()


def test_token_ids_go_up_to_the_largest_that_fits() -> None:
    pair = Pair(4)
    text = pair.open()
    pair.append(text, 2**31 - 1, 0, 2**31 - 1, 0, 5)
    pair.check()


def test_roots_have_nothing_in_common() -> None:
    tree = SuffixTree(4)
    one, other = tree.add_root(), tree.add_root()
    text = tree.open(one)
    for token in (1, 2, 1, 2):
        tree.append(text, token)
    assert tree.nodes(other) == []
    text = tree.open(other)
    tree.append(text, 1)
    assert tree.nodes(other) == [([1], 1, 0)]


def test_an_empty_tree_gives_its_memory_back() -> None:
    tree = SuffixTree(64)
    before = tree.bytes
    chance = random.Random(1)
    root = tree.add_root()
    text = tree.open(root)
    for _ in range(20_000):
        tree.append(text, chance.randrange(1000))
    assert tree.bytes > 20_000 * 64
    tree.close(text)
    tree.drop(text)
    tree.drop_root(root)
    assert tree.num_nodes == 0
    assert tree.bytes < before + 1000


def test_a_run_of_one_token_costs_as_little_as_other_text() -> None:
    """Every suffix of the last ``max_depth`` moves, but none of them makes a node."""
    tree = SuffixTree(64)
    text = tree.open(tree.add_root())
    for _ in range(50_000):
        tree.append(text, 7)
    assert tree.num_nodes == 2
    tree.append(text, 8)
    assert (
        tree.num_nodes == 2 + 63 + 64
    )  # 63 places to part from the run, a leaf for each of the 64 suffixes ending in 8
