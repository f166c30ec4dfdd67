"""Prompt lookup."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_sequences import TokenSequence

from paceline.speculation.drafters.ngram import TOKENS_PER_CALL, NgramDrafter
from paceline.speculation.options import SpeculationOptions


def tokens_of(drafter: NgramDrafter, sequence: TokenSequence, length: int = 4) -> tuple[int, ...]:
    (draft,) = drafter.propose([sequence], [length])
    return () if draft is None else draft.token_ids


def drafter_of(shortest: int = 2, longest: int = 3) -> NgramDrafter:
    return NgramDrafter(SpeculationOptions(ngram_min=shortest, ngram_max=longest))


def test_the_longest_match_wins_over_a_more_recent_shorter_one() -> None:
    sequence = TokenSequence([1, 2, 3, 40, 9, 2, 3, 50, 1, 2, 3])
    assert tokens_of(drafter_of(), sequence, 1) == (40,)


def test_of_equal_matches_the_most_recent_wins() -> None:
    assert tokens_of(drafter_of(), TokenSequence([1, 2, 40, 9, 1, 2, 50, 8, 1, 2]), 2) == (50, 8)


def test_a_match_shorter_than_the_minimum_is_none() -> None:
    assert tokens_of(drafter_of(), TokenSequence([2, 40, 9, 2])) == ()


def test_the_last_tokens_do_not_match_themselves() -> None:
    assert tokens_of(drafter_of(), TokenSequence([7, 7])) == ()
    assert tokens_of(drafter_of(), TokenSequence([7, 7, 7])) == (7,)


@pytest.mark.parametrize("prompt", [[], [5]])
def test_a_sequence_too_short_to_match_has_no_draft(prompt: list[int]) -> None:
    assert tokens_of(drafter_of(), TokenSequence(prompt)) == ()


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 3), st.integers(0, 3), st.integers(1, 6))
def test_drafts_are_those_of_a_search_through_the_text(text: list[int], shortest: int, more: int, length: int) -> None:
    expected: tuple[int, ...] = ()
    for n in range(shortest, shortest + more + 1):
        ends = [end for end in range(n, len(text)) if text[end - n : end] == text[len(text) - n :]]
        if len(text) >= n and ends:
            expected = tuple(text[ends[-1] : ends[-1] + length])
    drafter, sequence = drafter_of(shortest, shortest + more), TokenSequence(text[:3])
    tokens_of(drafter, sequence)
    sequence.output = text[3:]
    assert tokens_of(drafter, sequence, length) == expected


def test_a_long_prompt_is_taken_in_over_several_calls() -> None:
    sequence = TokenSequence([*range(TOKENS_PER_CALL), 5, 6])
    drafter = drafter_of()
    assert tokens_of(drafter, sequence, 1) == ()
    assert tokens_of(drafter, sequence, 1) == (7,)


def test_a_forgotten_sequence_starts_anew() -> None:
    drafter = drafter_of()
    tokens_of(drafter, TokenSequence([1, 2, 3, 1, 2]))
    drafter.forget(TokenSequence([1, 2, 3, 1, 2]))
    drafter.forget(TokenSequence([], request="unknown"))
    assert tokens_of(drafter, TokenSequence([1, 2, 9, 1, 2])) == (9, 1, 2)
