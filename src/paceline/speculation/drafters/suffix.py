"""Suffix decoding (Oliaro et al., NeurIPS 2025): what followed the last tokens before, in the sequence itself and in
recent outputs for the same adapter. The trees are native (csrc/speculation)."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from paceline._suffix import SuffixIndex
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress, SequenceView
from paceline.speculation.options import SpeculationOptions

#: Tokens taken in at one call, over all sequences: about 2 ms at most. A longer prompt is taken in over several calls,
#: most of them while it is being computed.
TOKENS_PER_CALL = 2048

#: Prompt tokens before an output that are kept with it among the recent ones: how outputs begin depends on how the
#: prompts before them end.
CONTEXT = 16

#: A token is proposed if it is right, with its ancestors, with a probability of at least this share of what pays for a
#: row: what the controller learned of the sequence may raise it, and tokens that are not verified teach, too. ``LEAST``
#: bounds it. Where a row costs next to nothing, long shots pay.
SHARE, LEAST = 0.25, (0.01, 0.1)
#: The same for a second, third, ... token behind the same one. Branches that do not pay by themselves only displace
#: the tokens of the likeliest path.
BRANCH_SHARE, BRANCH_LEAST = 1.0, (0.01, 0.5)


@dataclass(slots=True)
class _Known:
    """A sequence in the index: its number there, and how many of its tokens are."""

    number: int
    length: int


class SuffixDrafter:
    """Proposes what the matches of a sequence's last tokens make likely, in its own text and in recent outputs: a
    chain, or a tree where a row costs so little that a second candidate pays.

    ``confidence`` grows with the number and the lengths of the matches that went on this way. A sequence's tokens are
    taken in when it is asked for; sequences of one request share one tree, which holds the prompt once. Outputs of all
    sequences, running and ended, are matched too, up to ``suffix_max_cached_tokens`` tokens. ``threshold``: see
    ``Priced``; 0 until it is known.
    """

    name = "suffix"
    cheap = True
    layers: tuple[int, ...] = ()

    def __init__(self, options: SpeculationOptions) -> None:
        self._options = options
        self._max_depth = options.suffix_max_depth
        self._index = self._new_index()
        self._least = options.suffix_min_probability
        self.threshold = 0.0
        self._known: dict[tuple[str, int], _Known] = {}
        self._siblings: dict[str, list[int]] = {}  # numbers of the sequences of requests that have several
        self._adapters: dict[str | None, int] = {}  # their numbers in the index; none is used twice
        self._num_adapters = 0

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of recent outputs that are matched, with the ends of their prompts."""
        return self._index.num_cached

    @property
    def memory_bytes(self) -> int:
        return self._index.bytes

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        room = TOKENS_PER_CALL
        numbers: list[int] = []
        tokens: list[int] = []
        counts: list[int] = []
        wanted: list[int] = []
        for sequence, length in zip(sequences, lengths, strict=True):
            known = self._known.get(sequence.key) or self._open(sequence)
            start, end = known.length, sequence.length
            if end - start > room:  # the rest in the next steps; no draft until then
                end, length = start + room, 0
            if end > start:
                tokens += sequence.token_ids[start:end].tolist()
                known.length = end
                room -= end - start
            numbers.append(known.number)
            counts.append(end - start)
            wanted.append(length)
        first = max(self._least, _share(self.threshold, SHARE, LEAST))
        other = max(self._least, _share(self.threshold, BRANCH_SHARE, BRANCH_LEAST))
        drafts = self._index.step(numbers, tokens, counts, wanted, first, other)
        return [None if draft is None else Draft(draft[0], "suffix", draft[1], draft[2]) for draft in drafts]

    def observe(self, progress: Seq[Progress]) -> None:
        """Takes in prompts while they are being computed."""
        room = TOKENS_PER_CALL
        for step in progress:
            sequence = step.sequence
            if step.token_ids or room == 0 or not _drafted_for(sequence):
                continue
            known = self._known.get(sequence.key) or self._open(sequence)
            count = min(room, sequence.length - known.length)
            self._feed(sequence, known, count)
            room -= count

    def forget(self, sequence: SequenceView) -> None:
        known = self._known.pop(sequence.key, None)
        if known is None:
            return
        if known.length >= sequence.prompt_length:
            self._feed(sequence, known, sequence.length - known.length)
        self._index.close(known.number)
        request = sequence.key[0]
        if request in self._siblings:
            self._siblings[request].remove(known.number)
            if not self._siblings[request]:
                del self._siblings[request]

    def forget_adapter(self, adapter: str) -> None:
        """Its outputs are not found any more; they make room when others need it."""
        self._adapters.pop(adapter, None)

    def reset(self) -> None:
        assert not self._known, "a sequence is known"
        self._index = self._new_index()
        self._adapters.clear()

    def _new_index(self) -> SuffixIndex:
        options = self._options
        return SuffixIndex(
            options.suffix_max_depth,
            options.suffix_max_cached_tokens,
            options.suffix_max_factor,
        )

    def _feed(self, sequence: SequenceView, known: _Known, count: int) -> None:
        if count > 0:
            self._index.extend(known.number, sequence.token_ids[known.length : known.length + count].tolist())
            known.length += count

    def _open(self, sequence: SequenceView) -> _Known:
        request, prompt = sequence.key[0], sequence.prompt_length
        sibling, first = -1, 0
        if sequence.params.n > 1:
            siblings = self._siblings.setdefault(request, [])
            if siblings:  # the prompt is there; its end is repeated so that matches reach back over it
                sibling, first = siblings[0], max(0, prompt - self._max_depth)
        adapter = self._adapters.get(sequence.adapter)
        if adapter is None:
            adapter = self._adapters[sequence.adapter] = self._num_adapters
            self._num_adapters += 1
        number = self._index.open(adapter, sibling, first, max(first, prompt - CONTEXT), prompt)
        if sequence.params.n > 1:
            siblings.append(number)
        known = self._known[sequence.key] = _Known(number, first)
        return known


def _share(threshold: float, share: float, bounds: tuple[float, float]) -> float:
    return min(max(share * threshold, bounds[0]), bounds[1])


def _drafted_for(sequence: SequenceView) -> bool:
    wish = sequence.params.speculative
    return wish is None or wish.enabled
