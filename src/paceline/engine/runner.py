"""Runs the model on a planned step and turns logits into accepted tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch

from paceline.backends.base import Backend, Program
from paceline.engine.batch_builder import BatchBuilder, prompt_logprob_range
from paceline.engine.kv_moves import PathMoves
from paceline.engine.sequence import Sequence
from paceline.kv.cache import KVCache
from paceline.sampling.outputs import TokenLogprobs
from paceline.sampling.sampler import SampleOutput, Sampler, SampleRow
from paceline.sampling.state import SamplingState
from paceline.speculation.draft import Draft
from paceline.speculation.target import SampledRows, TargetRows
from paceline.speculation.verify import needs_target, verify


@dataclass(slots=True)
class StepResult:
    """What one step did for one sequence.

    ``token_ids`` are accepted, but not yet cut at an end of the sequence. ``kept_rows``: how many of the sequence's
    rows in this step stay in the cache, those of known tokens and of accepted draft tokens, one behind the other.
    ``path``: see ``Verified``; empty where nothing was sampled.
    """

    token_ids: list[int]
    kept_rows: int
    num_accepted: int = 0  # draft tokens among ``token_ids``
    path: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    error: str | None = None

    def rows_from(self, start: int) -> list[int]:
        """The kept rows in the step's flat batch, where the sequence's first row is ``start``."""
        known = self.kept_rows - self.num_accepted
        return [*range(start, start + known), *(start + known - 1 + row for row in self.path[1:])]


class Runner:
    """One model, one cache, one sampler. ``backend`` holds the cache's keys and values. ``hidden``: what the
    program captured in the last step, see ``StepOutput``."""

    hidden: torch.Tensor | None = None

    def __init__(
        self,
        program: Program,
        cache: KVCache,
        backend: Backend,
        sampler: Sampler,
        vocab_size: int,
        eos_ids: frozenset[int],
    ) -> None:
        self.program = program
        self.cache = cache
        self.backend = backend
        self.sampler = sampler
        self.vocab_size = vocab_size
        self.eos_ids = eos_ids
        self._builder = BatchBuilder(cache, program.max_rows)

    def run(self, planned: Seq[Sequence]) -> list[StepResult]:
        """Computes the planned rows; one result a sequence, in order. Writes ``prompt_logprobs`` of those that want
        them."""
        output = self.program.run(self._builder.build(planned))
        logits, best, self.hidden = output.logits, output.best, output.hidden
        if any(sequence.wants_prompt_logprobs for sequence in planned):
            logits, best = self._take_prompt_logprobs(planned, logits), None
        rows: list[SampleRow] = []
        starts = [0]
        drafts: list[Draft | None] = []
        slow: list[int] = []  # places in ``drafts`` of those whose rows cost more than an argmax
        for sequence in planned:
            if sequence.completes:
                row = sequence.sampling or self._start_sampling(sequence)
                draft = sequence.draft
                if draft is not None and not row.plain:
                    slow.append(len(drafts))
                    row = SampleRow(row.state, deferred=True)
                rows.append(row)
                if draft is not None:
                    rows += draft_rows(row, draft)
                drafts.append(draft)
                starts.append(len(rows))
        if not rows:
            return [StepResult([], sequence.rows) for sequence in planned]
        looked_at = self._look_at(logits.cpu(), rows, starts, drafts, slow) if slow else {}
        sampled = self.sampler.sample(logits, rows, best)
        return self._verify(planned, sampled, starts, drafts, looked_at)

    def _look_at(
        self,
        logits: torch.Tensor,
        rows: list[SampleRow],
        starts: list[int],
        drafts: list[Draft | None],
        slow: list[int],
    ) -> dict[int, TargetRows | SampledRows]:
        """For each of these drafts the rows of its sequence, for its rule to look at."""
        looked_at: dict[int, TargetRows | SampledRows] = {}
        for s in slow:
            own, draft = slice(starts[s], starts[s + 1]), drafts[s]
            drawn = not self.sampler.coupled and draft is not None and needs_target(draft, rows[own.start].state.params)
            mine = rows[own] if drawn else [SampleRow(row.state, row.draft) for row in rows[own]]
            looked_at[s] = (TargetRows if drawn else SampledRows)(self.sampler, logits[own], mine)
        return looked_at

    def _verify(
        self,
        planned: Seq[Sequence],
        sampled: SampleOutput,
        starts: list[int],
        drafts: list[Draft | None],
        looked_at: dict[int, TargetRows | SampledRows],
    ) -> list[StepResult]:
        verified = verify(sampled.token_ids, starts, drafts, looked_at)
        results = []
        moves = PathMoves(self.cache)
        done = 0
        for sequence in planned:
            if not sequence.completes:
                results.append(StepResult([], sequence.rows))
                continue
            outcome, start, rows = verified[done], starts[done], looked_at.get(done)
            done += 1
            token_ids, path = outcome.token_ids, outcome.path
            moves.add(sequence, path)
            result = StepResult(token_ids, sequence.rows + outcome.num_accepted, outcome.num_accepted, path)
            if sequence.params.logprobs is not None:
                if rows is not None:
                    result.logprobs = rows.logprobs(outcome)
                elif sampled.logprobs is not None:
                    result.logprobs = [entry for row in path if (entry := sampled.logprobs[start + row]) is not None]
            if token_ids[-1] < 0:
                messages, row = (sampled.errors, start + path[-1]) if rows is None else (rows.errors, path[-1])
                result.error = messages.get(row, "the model gave no token")
                result.token_ids = token_ids[:-1]
            results.append(result)
        moves.run(self.backend)
        return results

    def _start_sampling(self, sequence: Sequence) -> SampleRow:
        state = SamplingState(
            sequence.params,
            prompt_ids=sequence.request.prompt_ids,
            vocab_size=self.vocab_size,
            output_ids=sequence.output_ids.tolist(),
            eos_ids=self.eos_ids,
            index=sequence.index,
        )
        sequence.sampling = SampleRow(state)
        return sequence.sampling

    def _take_prompt_logprobs(self, planned: Seq[Sequence], logits: torch.Tensor) -> torch.Tensor:
        """Takes the prompt logprobs out of the step's logits; gives the rows that are sampled."""
        kept: list[torch.Tensor] = []
        row = 0
        for sequence in planned:
            if sequence.wants_prompt_logprobs:
                first, last = prompt_logprob_range(sequence)
                if not sequence.prompt_logprobs:
                    sequence.prompt_logprobs.append(None)
                if last > first:
                    next_ids = sequence.token_ids[first + 1 : last + 1].tolist()
                    top = sequence.params.prompt_logprobs or 0
                    chunk = logits[row : row + last - first]
                    sequence.prompt_logprobs += self.sampler.prompt_logprobs(chunk, next_ids, top)
                    row += last - first
            if sequence.completes:
                kept.append(logits[row : row + 1 + sequence.draft_rows])
                row += 1 + sequence.draft_rows
        return torch.cat(kept) if kept else logits[:0]


def draft_rows(first: SampleRow, draft: Draft) -> list[SampleRow]:
    """A row for each draft token behind the row ``first``, with the path of draft tokens that leads to it."""
    state, deferred = first.state, first.deferred
    if draft.parents is None:
        return [SampleRow(state, draft.token_ids[:count], deferred) for count in range(1, len(draft) + 1)]
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(draft.token_ids, draft.parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return [SampleRow(state, path, deferred) for path in paths]
