"""Prompt lookup: what followed the last tokens when they stood in the sequence before."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress, SequenceView
from paceline.speculation.options import SpeculationOptions

#: Tokens taken in at one call, over all sequences: 4,096 take about 10 ms. A longer prompt is taken in over several
#: calls.
TOKENS_PER_CALL = 4096


class _Occurrences:
    """The last occurrence of every n-gram that is followed by a token: where that token stands."""

    __slots__ = ("ends", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ends: dict[tuple[int, ...], int] = {}

    def extend(self, token_ids: Seq[int], shortest: int, longest: int) -> None:
        tokens, ends = self.tokens, self.ends
        for token in token_ids:
            end = len(tokens)
            for n in range(shortest, min(longest, end) + 1):
                ends[tuple(tokens[end - n :])] = end
            tokens.append(token)

    def continuation(self, count: int, shortest: int, longest: int) -> tuple[int, ...]:
        """At most ``count`` tokens that followed the longest n-gram that ends the text and stood there before."""
        length = len(self.tokens)
        for n in range(min(longest, length), shortest - 1, -1):
            end = self.ends.get(tuple(self.tokens[length - n :]))
            if end is not None:
                return tuple(self.tokens[end : end + count])
        return ()


class NgramDrafter:
    """Proposes the tokens behind the most recent earlier occurrence of the last ``ngram_max`` tokens, or fewer, down to
    ``ngram_min``. Looks at the sequence alone: the simplest drafter, to compare others with."""

    name = "ngram"
    cheap = True
    layers: tuple[int, ...] = ()

    def __init__(self, options: SpeculationOptions) -> None:
        self._shortest, self._longest = options.ngram_min, options.ngram_max
        self._known: dict[tuple[str, int], _Occurrences] = {}

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        room = TOKENS_PER_CALL
        drafts: list[Draft | None] = []
        for sequence, length in zip(sequences, lengths, strict=True):
            known = self._known.setdefault(sequence.key, _Occurrences())
            start = len(known.tokens)
            new = min(room, sequence.length - start)
            known.extend(sequence.token_ids[start : start + new].tolist(), self._shortest, self._longest)
            room -= new
            tokens: tuple[int, ...] = ()
            if start + new == sequence.length:
                tokens = known.continuation(length, self._shortest, self._longest)
            drafts.append(Draft(tokens, self.name) if tokens else None)
        return drafts

    def observe(self, progress: Seq[Progress]) -> None:
        """``propose`` takes in what is new."""

    def forget(self, sequence: SequenceView) -> None:
        self._known.pop(sequence.key, None)

    def reset(self) -> None:
        """Nothing is kept of sequences that ended."""
