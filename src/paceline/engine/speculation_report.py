"""What speculation did for a sequence or a request, gathered on the client's side from its deltas.

Gathered there, it goes on over restarts of the engine, and it is about the tokens of the answer: what a stop string cut
off is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from paceline.engine.messages import StepSpeculation


@dataclass(slots=True)
class DrafterReport:
    """Draft tokens of one drafter: those verified, and those of them that stand in the answer."""

    drafted: int = 0
    accepted: int = 0


@dataclass(slots=True)
class SpeculationReport:
    """Counts over the verification steps of a sequence, or of all sequences of a request.

    A *step* is a pass of the target that gave the sequence tokens, with drafts to verify or without. The pass that ends
    the prompt gives the first token: it is counted in ``prefill_steps`` and, as SPEED-Bench has it, in nothing else,
    unless it verified drafts, too. ``histogram[L]`` is the number of steps that gave ``L`` tokens; ``histogram[0]`` is
    always 0. ``time_s`` and ``estimated_time_without_s`` are seconds of the steps, and what the same tokens would have
    taken without drafts by the engine's cost table; several sequences' seconds are added up.
    """

    steps: int = 0
    prefill_steps: int = 0
    histogram: list[int] = field(default_factory=lambda: [0])
    by_drafter: dict[str, DrafterReport] = field(default_factory=dict)
    time_s: float = 0.0
    estimated_time_without_s: float = 0.0

    @property
    def drafted(self) -> int:
        """Draft tokens verified."""
        return sum(entry.drafted for entry in self.by_drafter.values())

    @property
    def accepted(self) -> int:
        """Draft tokens that stand in the answer."""
        return sum(entry.accepted for entry in self.by_drafter.values())

    @property
    def acceptance_length(self) -> float | None:
        """Mean tokens of a step, the target's own among them; None before the first step. The passes over the prompt
        are left out: with them it is ``(tokens of the steps + prefill_steps) / (steps + prefill_steps)``."""
        tokens = sum(length * count for length, count in enumerate(self.histogram))
        return tokens / self.steps if self.steps else None

    def add_step(self, count: int, step: StepSpeculation | None) -> list[str]:
        """Counts a step of one sequence of which ``count`` tokens were kept. The proposer of each: a drafter's name,
        or "" for the target's own."""
        step = step or StepSpeculation()
        sources = (step.sources + [""] * count)[:count]
        if count == 0:
            return sources
        if not self.steps and not self.prefill_steps and not step.drafted:
            self.prefill_steps = 1
            return sources
        self.steps += 1
        self.histogram += [0] * (count + 1 - len(self.histogram))
        self.histogram[count] += 1
        for name, drafted in step.drafted.items():
            self._drafter(name).drafted += drafted
        for name in filter(None, sources):
            self._drafter(name).accepted += 1
        self.time_s += step.time
        self.estimated_time_without_s += step.time_without
        return sources

    def _drafter(self, name: str) -> DrafterReport:
        return self.by_drafter.setdefault(name, DrafterReport())

    def as_dict(self) -> dict[str, object]:
        """As it stands in an answer's ``usage.speculation``."""
        return {
            "steps": self.steps,
            "prefill_steps": self.prefill_steps,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "acceptance_length": self.acceptance_length,
            "histogram": self.histogram,
            "by_drafter": {
                name: {"drafted": entry.drafted, "accepted": entry.accepted} for name, entry in self.by_drafter.items()
            },
            "time_s": self.time_s,
            "estimated_time_without_s": self.estimated_time_without_s,
        }


def total(reports: Iterable[SpeculationReport]) -> SpeculationReport:
    """The sum of several sequences' reports."""
    whole = SpeculationReport()
    for report in reports:
        whole.steps += report.steps
        whole.prefill_steps += report.prefill_steps
        whole.histogram = list(_added(whole.histogram, report.histogram))
        for name, entry in report.by_drafter.items():
            own = whole.by_drafter.setdefault(name, DrafterReport())
            own.drafted += entry.drafted
            own.accepted += entry.accepted
        whole.time_s += report.time_s
        whole.estimated_time_without_s += report.estimated_time_without_s
    return whole


def _added(first: list[int], second: list[int]) -> Iterator[int]:
    return (a + b for a, b in zip_longest(first, second, fillvalue=0))
