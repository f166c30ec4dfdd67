"""Made-up texts through drafter, calibration and admission: where branches are worth their rows, and where not."""

from __future__ import annotations

import random

import pytest
from suffix_replay import MACHINES, Replay, Text, match_saved, replay

from paceline.speculation.draft import Draft
from paceline.speculation.drafters import suffix
from paceline.speculation.drafters.suffix import SuffixDrafter
from paceline.speculation.options import SpeculationOptions

CPU, H200 = (points for points, _ in MACHINES.values())


def ambiguous_texts(count: int = 6, length: int = 300) -> list[Text]:
    """Behind each pair of 12 tokens comes one of two others, the first in three of five cases."""
    chance = random.Random(1)
    ways: dict[tuple[int, int], list[int]] = {}
    texts = []
    for _ in range(count):
        text = [0, 1]
        while len(text) < length:
            after = ways.setdefault((text[-2], text[-1]), chance.sample(range(12), 2))
            text.append(after[0] if chance.random() < 0.6 else after[1])
        texts.append((text[:20], text[20:]))
    return texts


def of(points: list[tuple[int, float]], streams: int = 1) -> Replay:
    return replay(ambiguous_texts(), streams, points, SuffixDrafter(SpeculationOptions()))


def test_where_rows_are_free_branches_bring_more_tokens_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = of(H200)
    monkeypatch.setattr(suffix, "BRANCH_LEAST", (1.0, 1.0))
    chains = of(H200)
    assert trees.trees > 0 == chains.trees and trees.tokens == chains.tokens
    assert trees.seconds < 0.85 * chains.seconds


@pytest.mark.parametrize("streams", [1, 4, 8])
def test_where_rows_are_dear_they_cost_nothing(streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = of(CPU, streams)
    monkeypatch.setattr(suffix, "BRANCH_LEAST", (1.0, 1.0))
    assert trees.seconds < 1.01 * of(CPU, streams).seconds


def test_a_saved_text_is_followed_along_its_branch() -> None:
    tree = Draft((5, 6, 7, 9), "d", (-1, -1, 1, 2))
    assert match_saved(tree, [6, 7, 8, 9]) == [6, 7, 8]
    assert match_saved(tree, [6, 7]) == [6, 7, -1]
    assert match_saved(Draft((6, 8), "d"), [6, 7]) == [6, 7]
