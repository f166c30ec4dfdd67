"""Token trees of blocks: the native growth against a few obvious lines."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from paceline import _suffix

Node = tuple[int, int, float]


def grow(
    logits: np.ndarray,
    counts: list[int],
    before: list[int],
    previous: np.ndarray,
    next_: np.ndarray,
    most: list[int] | None = None,
) -> list[list[Node]]:
    """(token, parent, confidence) of each block's nodes."""
    limits = [8] * len(counts) if most is None else most
    room = max(0, sum(limits))
    tokens, parents, sizes = (np.full(n, -7, dtype=np.int32) for n in (room, room, len(counts)))
    confidence = np.empty(room, dtype=np.float32)
    known = np.array(before, dtype=np.int32)
    _suffix.grow_trees(
        logits, np.array(counts, dtype=np.int32), np.array(limits, dtype=np.int32), known,
        _suffix.MarkovTerm(previous, next_), tokens, parents, confidence, sizes,
    )  # fmt: skip
    starts = np.cumsum([0, *limits])
    return [
        list(zip(*(each[start : start + size].tolist() for each in (tokens, parents, confidence)), strict=True))
        for start, size in zip(starts, sizes, strict=False)
    ]


def children(row: np.ndarray, bias: np.ndarray) -> list[tuple[int, float]]:
    """The four likeliest tokens of a position with what is believed of them."""
    own, survival = row[:-1].astype(float), float(row[-1])
    order = np.lexsort((np.arange(len(own)), -own))[:32]
    raised = np.lexsort((np.arange(len(own)), -bias))[:16] if bias.any() else []
    kept = np.union1d(order[own[order] >= own.max() - 8.0], raised).astype(int)
    scores = own[kept] + bias[kept]
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    best = [int(i) for i in np.argsort(-shares, kind="stable")[:4]]
    top = min(shares[best[0]], 0.9999)
    believed = 1 / (1 + np.exp(-(0.75 * np.log(top / (1 - top)) + 0.25 * survival)))
    rest = [min(shares[i] * (1 - believed) / (1 - top), believed) for i in best[1:]]
    return [(int(kept[i]), share) for i, share in zip(best, [believed, *rest], strict=True)]


def obvious(
    logits: np.ndarray, first: int, count: int, before: int, previous: np.ndarray, next_: np.ndarray, most: int
) -> list[Node]:
    """The likeliest paths, one node after the other."""
    tree: list[Node] = []
    open_: list[tuple[float, int, int, int, int, float]] = []
    order = 0

    def offer(depth: int, token: int, parent: int, path: float) -> None:
        nonlocal order
        if depth >= count:
            return
        bias = previous[token] @ next_.T if token >= 0 else np.zeros(len(next_))
        for child, share in children(logits[first + depth], bias):
            if path * share >= 0.02:
                heapq.heappush(open_, (-path * share, order, depth, child, parent, share))
                order += 1

    offer(0, before, -1, 1.0)
    while open_ and len(tree) < most:
        path, _, depth, token, parent, share = heapq.heappop(open_)
        tree.append((token, parent, share))
        offer(depth + 1, token, len(tree) - 1, -path)
    return tree


@pytest.mark.parametrize(("vocabulary", "spread"), [(7, 2.0), (64, 2.0), (1000, 1.0), (1000, 6.0), (4099, 3.0)])
def test_trees_are_the_obvious_ones(vocabulary: int, spread: float) -> None:
    random = np.random.default_rng(vocabulary)
    counts, before, most = [3, 1, 0, 6, 2], [-1, 4, 2, 0, -1], [8, 3, 5, 16, 0]
    logits = random.normal(0, spread, (sum(counts), vocabulary + 1)).astype(np.float32)
    previous, next_ = (random.normal(0, 0.5, (vocabulary, 8)).astype(np.float32) for _ in range(2))
    trees = grow(logits, counts, before, previous, next_, most)
    first = 0
    for tree, count, token, limit in zip(trees, counts, before, most, strict=True):
        expected = obvious(logits, first, count, token, previous, next_, limit)
        assert [node[:2] for node in tree] == [node[:2] for node in expected]
        assert np.allclose([node[2] for node in tree], [node[2] for node in expected], atol=1e-5)
        assert len({node[:2] for node in tree}) == len(tree), "no token stands twice behind another"
        first += count
    assert spread < 2 or any(node[1] >= 0 for node in trees[3]), "some paths are longer than one token"


def test_behind_a_certain_token_stands_a_chain() -> None:
    logits = np.full((4, 6), -20.0, dtype=np.float32)
    logits[range(4), [3, 1, 4, 0]] = 20.0
    markov = np.zeros((5, 2), dtype=np.float32)
    logits[:, -1] = 9.0
    (tree,) = grow(logits, [4], [2], markov, markov)
    assert [node[:2] for node in tree] == [(3, -1), (1, 0), (4, 1), (0, 2)]
    assert min(node[2] for node in tree) > 0.99


def test_the_bias_tells_the_children_of_siblings_apart() -> None:
    logits = np.full((2, 6), -20.0, dtype=np.float32)
    logits[0, :2] = 5.0  # either, then what follows it
    logits[1, 2:4] = 5.0
    logits[:, -1] = 0.0
    previous, next_ = np.zeros((5, 2), dtype=np.float32), np.zeros((5, 2), dtype=np.float32)
    previous[0], previous[1], next_[2], next_[3] = (1, 0), (0, 1), (6, 0), (0, 6)
    (tree,) = grow(logits, [2], [-1], previous, next_, [4])
    assert [node[:2] for node in tree] == [(0, -1), (1, -1), (2, 0), (3, 1)]


def test_what_always_stands_behind_a_token_is_found_where_it_looks_unlikely() -> None:
    logits = np.zeros((2, 1001), dtype=np.float32)
    logits[0, 7], logits[1, 900], logits[1, 5] = 9.0, 20.0, -9.0
    previous, next_ = np.zeros((1000, 1), dtype=np.float32), np.zeros((1000, 1), dtype=np.float32)
    previous[7], next_[5] = 40.0, 1.0
    (tree,) = grow(logits, [2], [-1], previous, next_, [2])
    assert [node[:2] for node in tree] == [(7, -1), (5, 0)]


def test_without_a_known_token_there_is_no_bias_and_ties_go_to_the_lowest_id() -> None:
    logits = np.zeros((2, 6), dtype=np.float32)
    logits[:, 3:5] = 4.0
    previous, next_ = np.ones((5, 2), dtype=np.float32), np.zeros((5, 2), dtype=np.float32)
    assert grow(logits, [1], [-1], previous, next_, [1])[0][0][0] == 3
    next_[4] = 0.5
    assert grow(logits, [1], [-1], previous, next_, [1])[0][0][0] == 3
    assert grow(logits, [1], [0], previous, next_, [1])[0][0][0] == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_grows_from_a_row_that_is_not_finite(bad: float) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    logits[1, :-1] = bad
    markov = np.zeros((8, 1), dtype=np.float32)
    first, second = grow(logits, [3, 2], [-1, 0], markov, markov)
    assert first and all(parent == -1 for _, parent, _ in first)
    assert any(parent >= 0 for _, parent, _ in second)
    logits[3, -1] = bad
    assert grow(logits, [3, 2], [-1, 0], markov, markov)[1] == []


def test_shapes_that_do_not_fit_are_refused() -> None:
    logits, markov = np.zeros((2, 9), dtype=np.float32), np.zeros((8, 1), dtype=np.float32)
    with pytest.raises(ValueError, match="more rows"):
        grow(logits, [3], [0], markov, markov)
    with pytest.raises(ValueError, match="less than no rows"):
        grow(logits, [-1], [0], markov, markov)
    with pytest.raises(ValueError, match="less than no rows or nodes"):
        grow(logits, [1], [0], markov, markov, [-1])
    with pytest.raises(ValueError, match="two matrices"):
        grow(logits, [1], [0], markov[:7], markov)
    with pytest.raises(ValueError, match="not one for these logits"):
        grow(logits, [1], [0], markov[:7], markov[:7])
    with pytest.raises(ValueError, match="not in the draft vocabulary"):
        grow(logits, [1], [8], markov, markov)
    with pytest.raises(ValueError, match="for each block"):
        grow(logits, [1], [], markov, markov)
