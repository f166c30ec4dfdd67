"""Where drafters plug in."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

from paceline.backends.base import MAX_TREE_ROWS
from paceline.engine.sequence import Sequence
from paceline.speculation.draft import Draft


class Drafter(Protocol):
    """Proposes tokens before a step and sees what came of it."""

    def propose(self, sequences: Seq[Sequence]) -> Seq[Draft | None]:
        """A draft, or None, for each of these running sequences. The engine may verify fewer tokens than proposed."""

    def observe(self, sequences: Seq[Sequence], accepted: Seq[Seq[int]]) -> None:
        """After a step: the tokens that each of these sequences took (already part of its ``token_ids``)."""


def fit_draft(draft: Draft | None, sequence: Sequence, max_tokens: int) -> Draft | None:
    """The part of a draft that can be of use: a chain no longer than the tokens that the sequence may still take
    behind it, a tree of at most ``MAX_TREE_ROWS`` rows with the known tokens before it, and never more slots than the
    sequence's block table has (``max_tokens``)."""
    if draft is None:
        return None
    room = max_tokens - sequence.length
    if draft.parents is None:
        room = min(room, sequence.end - sequence.length - 1)
    else:
        room = min(room, MAX_TREE_ROWS - sequence.pending)
    return draft.trim(room) if room > 0 and len(draft) else None
