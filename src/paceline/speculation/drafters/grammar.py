"""Drafts of what must come: tokens without an alternative in the form that the output must have."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress, SequenceView


class GrammarDrafter:
    """Proposes the forced tokens of sequences that have a grammar. They are always accepted."""

    name = "grammar"
    cheap = True
    layers: tuple[int, ...] = ()

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        return [self._draft(sequence, length) for sequence, length in zip(sequences, lengths, strict=True)]

    def observe(self, progress: Seq[Progress]) -> None:
        """The sequence's own matcher has seen it already."""

    def forget(self, sequence: SequenceView) -> None:
        """Nothing is kept here."""

    def reset(self) -> None:
        """Nothing is kept of sequences that ended."""

    def _draft(self, sequence: SequenceView, length: int) -> Draft | None:
        if sequence.grammar is None:
            return None
        tokens = sequence.grammar.forced(length)
        return Draft(tokens, self.name, confidence=(1.0,) * len(tokens)) if tokens else None
