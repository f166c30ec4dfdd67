"""How much of what was drafted was accepted, as SPEED-Bench (arXiv 2604.09557) and Spec-Bench define it.

A step is one verification; its length L is the number of tokens it emitted, the target's own included. The prefill's
token comes of no verification: values "with prefill" count it as one more step of each request. (A prefill that
verified drafts, as behind a prefix that was cached, is a step like others.)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from paceline.bench.speculation.step_counts import StepCounts
from paceline.bench.speculation.turns import Turn


@dataclass(slots=True)
class Acceptance:
    """Counts over requests. ``lengths``: number of steps by L. ``sums_only``: from a server's counters; then there are
    no means over requests, and none with the prefills."""

    lengths: Counter[int] = field(default_factory=Counter)
    drafted: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    drafted_steps: int = 0
    _requests: list[float] = field(default_factory=list)
    _requests_with_prefill: list[float] = field(default_factory=list)
    _prefill_tokens: int = 0
    _prefills: int = 0
    sums_only: bool = False

    def add(self, *turns: Turn) -> None:
        """Counts a request: one turn or, as SPEED-Bench's tools have it, all turns of a conversation together."""
        for turn in turns:
            self.lengths.update(turn.lengths)
            self.drafted.update(turn.drafted)
            self.accepted.update(turn.accepted)
            self.drafted_steps += turn.drafted_steps
            self._prefill_tokens += turn.prefill_tokens
        prefills = sum(turn.prefill_tokens > 0 for turn in turns)  # those that verified drafts are steps
        self._prefills += prefills
        steps = sum(len(turn.lengths) for turn in turns)
        emitted = sum(sum(turn.lengths) for turn in turns)
        prefill_tokens = sum(turn.prefill_tokens for turn in turns)
        if steps or prefills:
            self._requests_with_prefill.append((emitted + prefill_tokens) / (steps + prefills))
        if steps:
            self._requests.append(emitted / steps)

    def add_counts(self, counts: StepCounts) -> None:
        """Counts what a server's counters tell, which know nothing of single requests nor of steps without a draft."""
        self.sums_only = True
        self.lengths.update(counts.lengths)
        self.drafted["server"] += counts.drafted
        self.accepted["server"] += counts.accepted
        self.drafted_steps += counts.drafts

    @property
    def steps(self) -> int:
        return self.lengths.total()

    @property
    def macro(self) -> float:
        """SPEED-Bench's acceptance length: the mean over requests of their steps' mean L."""
        return _mean(self._requests)

    @property
    def micro(self) -> float:
        """Mean L of all steps pooled: Spec-Bench's mean accepted tokens, 1.0 for plain decoding. From a server's sums,
        1 + accepted / drafts."""
        if self.sums_only:
            return 1 + self.accepted.total() / self.drafted_steps if self.drafted_steps else 1.0
        return self._emitted / self.steps if self.steps else 1.0

    @property
    def macro_with_prefill(self) -> float:
        return _mean(self._requests_with_prefill)

    @property
    def micro_with_prefill(self) -> float:
        steps = self.steps + self._prefills
        return (self._emitted + self._prefill_tokens) / steps if steps else 1.0

    @property
    def joint(self) -> list[float]:
        """Entry ``i``: the share of steps in which draft positions 0 to ``i`` were accepted, P(L >= i + 2). Steps
        without a draft count as steps of L = 1, so that micro = 1 + the sum of these."""
        return [self._at_least(i + 2) / self.steps for i in range(max(self.lengths, default=1) - 1)]

    @property
    def conditional(self) -> list[float]:
        """Entry ``i``: P(L >= i + 2) / P(L >= i + 1), acceptance at position ``i`` where all before it was accepted."""
        return [self._at_least(i + 2) / self._at_least(i + 1) for i in range(max(self.lengths, default=1) - 1)]

    @property
    def rate(self) -> float | None:
        """Accepted / drafted tokens; None when nothing was drafted."""
        drafted = self.drafted.total()
        return self.accepted.total() / drafted if drafted else None

    @property
    def _emitted(self) -> int:
        return sum(length * count for length, count in self.lengths.items())

    def _at_least(self, length: int) -> int:
        return sum(count for value, count in self.lengths.items() if value >= length)


def acceptance(turns: Iterable[Turn]) -> Acceptance:
    """The counts of all these requests, a turn being one."""
    result = Acceptance()
    for turn in turns:
        if turn.tokens:
            result.add(turn)
    return result


def acceptance_of_conversations(passes: Iterable[Mapping[tuple[int, int], Turn]]) -> Acceptance:
    """The counts of all conversations of all passes (turns by (conversation, turn)), a conversation being a request."""
    result = Acceptance()
    for turns in passes:
        requests: dict[int, list[Turn]] = defaultdict(list)
        for (index, _), turn in turns.items():
            if turn.tokens:
                requests[index].append(turn)
        for request in requests.values():
            result.add(*request)
    return result


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 1.0
