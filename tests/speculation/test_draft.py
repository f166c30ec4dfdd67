"""Proposed tokens."""

from __future__ import annotations

import pytest

from paceline.speculation.draft import Draft

TREE = Draft((5, 6, 7, 8), "d", (-1, 0, 0, 1), (0.9, 0.8, 0.1, 0.7))


def test_a_draft_is_cut_with_all_that_belongs_to_its_tokens() -> None:
    assert TREE.trim(3) == Draft((5, 6, 7), "d", (-1, 0, 0), (0.9, 0.8, 0.1))
    assert TREE.trim(4) is TREE


def test_what_is_left_of_a_tree_is_a_chain_if_it_does_not_branch() -> None:
    assert TREE.trim(2) == Draft((5, 6), "d", None, (0.9, 0.8))
    assert Draft((5, 6, 7), "d", (-1, -1, 0)).trim(2).parents == (-1, -1)


@pytest.mark.parametrize("parents", [(-1, 1, 0), (-1, 2, 1), (0, 0, 0), (-1, -2, 0)])
def test_parents_come_before_their_children(parents: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError):
        Draft((1, 2, 3), "d", parents)
