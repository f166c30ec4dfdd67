"""What a step accepted, taken into the sequences, counted, and told."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from paceline.engine.adapters import Adapters
from paceline.engine.drafting import Drafting
from paceline.engine.live_sequences import LiveSequences
from paceline.engine.messages import EngineStats, FinishReason, SequenceDelta, SequenceDrafts, StepSpeculation
from paceline.engine.runner import StepResult
from paceline.engine.scheduler import Scheduler
from paceline.engine.sequence import Sequence


class Commit:
    """``drafting``: None where nothing is ever drafted."""

    def __init__(
        self,
        live: LiveSequences,
        scheduler: Scheduler,
        adapters: Adapters,
        drafting: Drafting | None,
        stats: EngineStats,
    ) -> None:
        self._live = live
        self._scheduler = scheduler
        self._adapters = adapters
        self._drafting = drafting
        self._stats = stats

    def count_rows(self, planned: Seq[Sequence]) -> int:
        """Rows of the planned step, drafts included; counts them."""
        rows = drafts = prompt = 0
        for sequence in planned:
            rows += sequence.rows
            drafts += sequence.draft_rows
            prompt += max(0, min(sequence.rows, sequence.prompt_length - sequence.computed))
            sequence.num_steps += 1
            sequence.num_drafted += sequence.draft_rows
        self._stats.prompt_tokens += prompt
        self._stats.draft_tokens += drafts
        return rows + drafts

    def take(self, sequence: Sequence, result: StepResult, seconds: float) -> SequenceDelta | None:
        """The accepted tokens, up to where the sequence ends; a delta if there is something to tell. ``seconds``: of
        the step."""
        computed, token_ids = sequence.computed + result.kept_rows, result.token_ids
        reason: FinishReason | None = None
        speculation: StepSpeculation | None = None
        if token_ids:
            count, reason = sequence.ending(token_ids)
            token_ids = token_ids[:count]
            speculation = self._accept(sequence, result, token_ids, seconds)
        if reason is None and result.error is not None:
            delta = self._live.finish(sequence, "error")
            delta.error = result.error
        else:
            self._scheduler.advance(sequence, min(computed, sequence.length))
            if reason is not None:
                delta = self._live.finish(sequence, reason)
                delta.drafts = SequenceDrafts(
                    steps=sequence.num_steps, drafted=sequence.num_drafted, accepted=sequence.num_accepted
                )
            elif token_ids:
                delta = SequenceDelta(request_id=sequence.request.request_id, index=sequence.index)
            else:
                return None
        delta.token_ids = token_ids
        delta.speculation = speculation
        if result.logprobs is not None:
            delta.logprobs = result.logprobs[: len(token_ids)]
        if reason == "stop" and token_ids[-1] in sequence.stop_ids:
            delta.stop_token = token_ids[-1]
        if not sequence.reported:
            _introduce(sequence, delta)
        return delta

    def _accept(
        self, sequence: Sequence, result: StepResult, token_ids: list[int], seconds: float
    ) -> StepSpeculation | None:
        """Takes ``token_ids`` into the sequence and counts them; a report where the request wants one."""
        count = len(token_ids)
        accepted = min(count, result.num_accepted)
        sequence.num_accepted += accepted
        self._stats.accepted_tokens += accepted
        self._stats.generation_tokens += count
        if sequence.version is not None:
            self._adapters.count_tokens(sequence.version, count)
        stand = [row - 1 for row in result.path[1 : accepted + 1]]
        if self._drafting is not None and sequence.draft_rows:
            self._drafting.count(sequence, stand)
        report = self._report(sequence, stand, count, seconds) if sequence.params.wants_report else None
        sequence.append(token_ids)
        assert sequence.sampling is not None
        sequence.sampling.state.extend(token_ids)
        return report

    def _report(self, sequence: Sequence, accepted: Seq[int], num_tokens: int, seconds: float) -> StepSpeculation:
        if self._drafting is None:
            return StepSpeculation(time=seconds, time_without=seconds * num_tokens)
        return self._drafting.report(sequence, accepted, num_tokens, seconds)


def _introduce(sequence: Sequence, delta: SequenceDelta) -> None:
    """What only the first delta of a sequence carries."""
    sequence.reported = True
    delta.num_cached_tokens = sequence.num_cached
    if sequence.first_scheduled is not None:
        delta.queue_time = max(0.0, sequence.first_scheduled - sequence.request.arrival_time)
    if sequence.wants_prompt_logprobs and len(sequence.prompt_logprobs) == sequence.prompt_length:
        delta.prompt_logprobs = sequence.prompt_logprobs
        sequence.wants_prompt_logprobs = False
