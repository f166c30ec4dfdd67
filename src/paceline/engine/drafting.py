"""Where speculation enters the step: drafts for planned sequences, and what came of them."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq

from paceline.engine.batch_builder import depths
from paceline.engine.messages import DrafterStats, EngineStats, StepSpeculation
from paceline.engine.scheduler import Scheduler
from paceline.engine.sequence import Sequence
from paceline.sampling.speculative import MAX_DRAFT
from paceline.speculation.decision import Decision, DraftController, StepShape
from paceline.speculation.drafters.base import Progress


class Drafting:
    """Asks the controller, has the scheduler grant rows, counts, and reports back."""

    def __init__(
        self, controller: DraftController, scheduler: Scheduler, stats: EngineStats, max_draft: int | None = None
    ) -> None:
        self.controller = controller
        self.scheduler = scheduler
        self.max_draft = MAX_DRAFT if max_draft is None else max_draft
        self._stats = stats
        self._counters: dict[tuple[str, str | None], DrafterStats] = {}
        self._decision = Decision(())
        self._shape = StepShape(0, 0, 0)

    def plan(self, planned: Seq[Sequence]) -> None:
        """Gives planned sequences that sample the drafts that are worth their rows."""
        started = time.perf_counter()
        self._decision = Decision(())
        rows = sampling = 0
        able: list[Sequence] = []
        limits: list[int] = []
        contexts: list[int] = []
        prompts: list[tuple[int, int]] = []
        for sequence in planned:
            rows += sequence.rows
            others = sequence.rows - sequence.completes
            if others:
                prompts.append((sequence.computed, others))
            if sequence.completes:
                sampling += 1
                contexts.append(sequence.computed + others)
                limit = self._limit(sequence)
                if limit > 0:
                    able.append(sequence)
                    limits.append(limit)
        self._shape = StepShape(sampling, rows - sampling, self.scheduler.max_draft_rows, contexts, prompts)
        if able:
            self._decision = self.controller.choose(able, limits, self._shape)
            decisions = self._stats.decisions
            for sequence, draft in zip(able, self._decision.drafts, strict=True):
                granted = None if draft is None else self.scheduler.grant(sequence, draft)
                name = "none" if granted is None else granted.drafter
                decisions[name] = decisions.get(name, 0) + 1
        self._stats.drafting_seconds += time.perf_counter() - started

    def _limit(self, sequence: Sequence) -> int:
        """Most draft tokens that can be of use to a sequence: one less than it may still take, since the target's own
        token comes on top; and what the request allows."""
        limit = min(self.max_draft, sequence.end - sequence.length - 1)
        wish = sequence.params.speculative
        if wish is None:
            return limit
        if not wish.enabled:
            return 0
        return limit if wish.max_draft is None else min(limit, wish.max_draft)

    def count(self, sequence: Sequence, accepted: int) -> None:
        """Counts a verified draft, ``accepted`` of whose tokens the sequence took."""
        draft = sequence.draft
        assert draft is not None
        adapter = sequence.request.adapter
        key = (draft.drafter, adapter)
        counters = self._counters.get(key)
        if counters is None:
            counters = self._counters[key] = DrafterStats(drafter=draft.drafter, adapter=adapter or "")
            self._stats.drafters.append(counters)
        drafted = sequence.draft_rows
        counters.drafts += 1
        counters.draft_tokens += drafted
        counters.accepted_tokens += accepted
        deepest = drafted if draft.parents is None else max(depths(draft))
        missing = deepest - len(counters.drafted_per_position)
        if missing > 0:
            counters.drafted_per_position += [0] * missing
            counters.accepted_per_position += [0] * missing
        for position in range(deepest):
            counters.drafted_per_position[position] += 1
        for position in range(accepted):
            counters.accepted_per_position[position] += 1

    def report(self, sequence: Sequence, accepted: int, num_tokens: int, seconds: float) -> StepSpeculation:
        """For a request that wants to know: call it before the sequence's draft is gone."""
        report = StepSpeculation(time=seconds)
        if sequence.draft is not None:
            report.drafted = {sequence.draft.drafter: sequence.draft_rows}
            report.sources = [sequence.draft.drafter] * accepted
        without = self._decision.seconds_without or seconds
        report.time_without = without * num_tokens
        return report

    def observe(self, progress: Seq[Progress], rows: int, seconds: float) -> None:
        """Tells the controller what the step did."""
        started = time.perf_counter()
        if self._decision.seconds:
            self._stats.predicted_seconds += self._decision.seconds
            self._stats.realised_seconds += seconds
        self.controller.observe(progress, self._shape, rows, seconds)
        self._stats.drafting_seconds += time.perf_counter() - started

    def forget(self, sequence: Sequence) -> None:
        """The sequence ended."""
        self.controller.forget(sequence)
