"""Drafts of forced tokens."""

from __future__ import annotations

from token_sequences import TokenSequence

from paceline.sampling.grammar import ChoiceMatcher
from paceline.speculation.drafters.grammar import GrammarDrafter

CHOICES = ((1, 2, 3, 4), (1, 2, 7, 8, 9))


def test_forced_tokens_are_proposed_with_certainty() -> None:
    sequence = TokenSequence([0], grammar=ChoiceMatcher(CHOICES))
    (draft,) = GrammarDrafter().propose([sequence], [5])
    assert draft is not None
    assert draft.token_ids == (1, 2)
    assert draft.confidence == (1.0, 1.0)


def test_a_draft_is_not_longer_than_asked_for() -> None:
    (draft,) = GrammarDrafter().propose([TokenSequence([0], grammar=ChoiceMatcher(CHOICES))], [1])
    assert draft is not None and draft.token_ids == (1,)


def test_there_is_no_draft_where_there_is_a_choice_or_no_grammar() -> None:
    matcher = ChoiceMatcher(CHOICES)
    matcher.advance(1)
    matcher.advance(2)
    assert GrammarDrafter().propose([TokenSequence([0], grammar=matcher), TokenSequence([0])], [5, 5]) == [None, None]
