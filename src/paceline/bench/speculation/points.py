"""Operating points: the same conversations without drafts and with drafts of several lengths, in turns.

A *point* is a concurrency, a temperature and a draft length. Whoever answers (an engine in this process, a server) is a
``Runner``; what comes of it is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paceline.bench.noise import NoiseGuard
from paceline.bench.speculation.acceptance import Acceptance, acceptance_of_conversations
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.measurement import Measurement
from paceline.bench.speculation.turns import Pass

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Point:
    """``draft_length``: most draft tokens of a step; None: as the engine decides."""

    concurrency: int
    temperature: float
    draft_length: int | None
    max_tokens: int

    @property
    def name(self) -> str:
        drafts = "drafts as decided" if self.draft_length is None else f"draft {self.draft_length}"
        return f"{drafts}, {self.concurrency} at once, T={self.temperature:g}"


class Runner(Protocol):
    """Who answers."""

    @property
    def drafts(self) -> bool:
        """Whether it can be asked for drafts."""
        ...

    @property
    def baseline(self) -> bool:
        """Whether it can be asked to do without drafts."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether its drafters may know the answers of an earlier pass."""
        ...

    def run(self, planned: Sequence[Planned], point: Point, speculative: bool) -> Pass:
        """All conversations once, ``point.concurrency`` of them at a time; it has forgotten what it can forget."""
        ...


@dataclass(slots=True)
class Outcome:
    """One split at one point. ``off`` is empty where there was nobody to answer without drafts. ``asked_before``: the
    same prompts had been asked with drafts, of somebody who remembers answers: drafts may be copies of them."""

    split: str
    point: Point
    planned: Sequence[Planned]
    off: list[Pass] = field(default_factory=list)
    on: list[Pass] = field(default_factory=list)
    asked_before: bool = False

    @property
    def measurement(self) -> Measurement | None:
        """The comparison; None without a baseline."""
        return Measurement(self.split, self.point.concurrency, self.planned, self.off, self.on) if self.off else None

    @property
    def categories(self) -> list[str]:
        return sorted({planned.conversation.category for planned in self.planned})

    def acceptance(self, category: str | None = None) -> Acceptance:
        """With drafts, of all conversations or of a category's; a conversation is one request."""
        counted = [counts for passed in self.on for name, counts in passed.counted.items() if category in (None, name)]
        if counted:
            result = Acceptance()
            for counts in counted:
                result.add_counts(counts)
            return result
        chosen = {i for i, one in enumerate(self.planned) if category in (None, one.conversation.category)}
        return acceptance_of_conversations(
            {key: turn for key, turn in passed.turns.items() if key[0] in chosen} for passed in self.on
        )

    def errors(self) -> list[str]:
        """Greedy texts that differ, counts that cannot be; each with its point."""
        found = [text for passed in (*self.off, *self.on) for text in passed.miscounts()]
        measurement = self.measurement
        if measurement is not None and self.point.temperature == 0:
            found += measurement.differences()
        return [f"{self.point.name}: {text}" for text in found]


@dataclass(frozen=True, slots=True)
class PointSettings:
    """What is measured. Points are all combinations; the pass without drafts is shared by all draft lengths."""

    concurrencies: Sequence[int]
    temperatures: Sequence[float]
    draft_lengths: Sequence[int | None]
    max_tokens: int
    rounds: int = 1

    def groups(self) -> Iterator[list[Point]]:
        """Points that differ in their draft length only."""
        for temperature in self.temperatures:
            for concurrency in self.concurrencies:
                yield [Point(concurrency, temperature, length, self.max_tokens) for length in self.draft_lengths]


@dataclass(slots=True)
class PointBench:
    """Measures splits (name -> conversations) at points."""

    runner: Runner
    settings: PointSettings
    say: Say = print
    guard: NoiseGuard = field(default_factory=NoiseGuard)
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self, splits: Mapping[str, Sequence[Planned]]) -> None:
        """Raises ``PacelineError`` when a request fails."""
        for split, planned in splits.items():
            for points in self.settings.groups():
                self._measure(split, planned, points)

    def _measure(self, split: str, planned: Sequence[Planned], points: Sequence[Point]) -> None:
        off: list[Pass] = []
        outcomes = [Outcome(split, point, planned, off) for point in points]
        first = not any(outcome.split == split for outcome in self.outcomes)
        for later in outcomes[first:] if self.settings.rounds == 1 else outcomes:
            later.asked_before = self.runner.remembers
        for number in range(self.settings.rounds):
            # Who goes first alternates, so that a slow drift of the machine favours nobody.
            turns: list[Outcome | None] = [None, *outcomes] if self.runner.baseline else [*outcomes]
            for outcome in turns if number % 2 == 0 else reversed(turns):
                point = (outcome or outcomes[0]).point
                passed = self._pass(split, planned, point, outcome is not None, number)
                (off if outcome is None else outcome.on).append(passed)
        self.outcomes += outcomes

    def _pass(self, split: str, planned: Sequence[Planned], point: Point, speculative: bool, number: int) -> Pass:
        self.guard.sample()
        began = time.perf_counter()
        passed = self.runner.run(planned, point, speculative)
        name = point.name if speculative else f"no drafts, {point.concurrency} at once, T={point.temperature:g}"
        self.say(
            f"{split}, {name}, round {number + 1} of {self.settings.rounds}: {len(passed.turns)} requests, "
            f"{passed.tokens} tokens in {time.perf_counter() - began:.1f} s"
        )
        return passed
