"""Where speculation enters the step: drafts for planned sequences, and what came of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
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

    def count(self, sequence: Sequence, accepted: Seq[int]) -> None:
        """Counts a verified draft; the sequence took those of its tokens that stand at ``accepted``, one behind the
        other. In a merged draft each drafter's own tokens count for it."""
        draft = sequence.draft
        assert draft is not None
        if draft.drafters is None:
            deepest = len(draft) if draft.parents is None else max(depths(draft))
            self._add(draft.drafter, sequence, len(draft), range(deepest), range(len(accepted)))
            return
        below = depths(draft)
        for name in dict.fromkeys(draft.drafters):
            own = [i for i, proposer in enumerate(draft.drafters) if proposer == name]
            stand = [depth for depth, i in enumerate(accepted) if draft.drafters[i] == name]
            self._add(name, sequence, len(own), {below[i] - 1 for i in own}, stand)

    def _add(
        self, name: str, sequence: Sequence, drafted: int, positions: Collection[int], accepted: Collection[int]
    ) -> None:
        """A drafter's ``drafted`` tokens at ``positions`` behind the known text; those at ``accepted`` stand."""
        adapter = sequence.request.adapter
        counters = self._counters.get((name, adapter))
        if counters is None:
            counters = self._counters[name, adapter] = DrafterStats(drafter=name, adapter=adapter or "")
            self._stats.drafters.append(counters)
        counters.drafts += 1
        counters.draft_tokens += drafted
        counters.accepted_tokens += len(accepted)
        missing = max(positions) + 1 - len(counters.drafted_per_position)
        if missing > 0:
            counters.drafted_per_position += [0] * missing
            counters.accepted_per_position += [0] * missing
        for position in positions:
            counters.drafted_per_position[position] += 1
        for position in accepted:
            counters.accepted_per_position[position] += 1

    def report(self, sequence: Sequence, accepted: Seq[int], num_tokens: int, seconds: float) -> StepSpeculation:
        """For a request that wants to know; ``accepted`` as in ``count``. Before the sequence's draft is gone."""
        report = StepSpeculation(time=seconds)
        draft = sequence.draft
        if draft is not None:
            report.drafted = dict(Counter(draft.drafters or {draft.drafter: len(draft)}))
            report.sources = [draft.proposer(place) for place in accepted]
        # Without drafts this step would have given one token, and the others a step each; prompts are computed once.
        without = self._decision.seconds_without or seconds
        later = self._decision.seconds_alone or without
        report.time_without = without + later * (num_tokens - 1)
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
