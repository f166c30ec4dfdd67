"""The sequences that have not ended, by request: how they come and how they go."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq

from paceline.adapters.adapter import Adapter
from paceline.engine.adapters import Adapters
from paceline.engine.messages import FinishReason, Request, SequenceDelta
from paceline.engine.scheduler import Scheduler
from paceline.engine.sequence import Sequence, State
from paceline.kv.cache import KVCache


class LiveSequences:
    """Whoever adds or ends a sequence does it here: scheduler, cache and adapters hear of it together.

    ``context_length``: the most tokens of one sequence; ``eos_ids``: end-of-sequence tokens.
    """

    def __init__(
        self, scheduler: Scheduler, cache: KVCache, adapters: Adapters, eos_ids: frozenset[int], context_length: int
    ) -> None:
        self._scheduler = scheduler
        self._cache = cache
        self._adapters = adapters
        self._eos_ids = eos_ids
        self._context_length = context_length
        self._requests: dict[str, list[Sequence]] = {}
        self._serial = 0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def __iter__(self) -> Iterator[Sequence]:
        return iter([sequence for sequences in self._requests.values() for sequence in sequences])

    @property
    def untouched(self) -> bool:
        """Whether there was never any sequence."""
        return self._serial == 0

    def of(self, request_id: str) -> Seq[Sequence]:
        """The request's sequences; none of one that is unknown."""
        return tuple(self._requests.get(request_id, ()))

    def add(self, request: Request, version: Adapter | None) -> list[SequenceDelta]:
        """Queues what is still to be done of the request; the ends of sequences that are complete already."""
        sequences: list[Sequence] = []
        ended: list[SequenceDelta] = []
        for index in range(request.params.n):
            if index < len(request.finished) and request.finished[index]:
                continue
            sequence = Sequence(
                request,
                index,
                self._cache.new_table(None if version is None else version.key),
                limit=self._context_length,
                eos_ids=self._eos_ids,
                serial=self._serial,
                version=version,
            )
            self._serial += 1
            reason = _resumed_end(sequence)
            if reason is None:
                sequences.append(sequence)
            else:
                ended.append(_end_delta(sequence, reason))
        if sequences:
            first = sequences[0]
            first.wants_prompt_logprobs = (
                request.params.prompt_logprobs is not None and first.num_outputs == 0 and not any(request.finished)
            )
            self._requests[request.request_id] = sequences
            if version is not None:
                self._adapters.open(version, len(sequences))
            self._scheduler.add(sequences)
        return ended

    def finish(self, sequence: Sequence, reason: FinishReason) -> SequenceDelta:
        """Ends it and frees what it holds; the delta says why."""
        assert sequence.state is not State.FINISHED
        self._scheduler.finish(sequence)
        siblings = self._requests[sequence.request.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self._requests[sequence.request.request_id]
        if sequence.version is not None:
            self._adapters.close(sequence.version)
        return _end_delta(sequence, reason)


def _end_delta(sequence: Sequence, reason: FinishReason) -> SequenceDelta:
    sequence.finish_reason = reason
    return SequenceDelta(request_id=sequence.request.request_id, index=sequence.index, finish_reason=reason)


def _resumed_end(sequence: Sequence) -> FinishReason | None:
    """Why a resumed sequence has nothing left to do: its last token was already its end."""
    if sequence.num_outputs == 0:
        return None
    if int(sequence.token_ids[-1]) in sequence.stop_ids and sequence.length >= sequence.min_end:
        return "stop"
    return "length" if sequence.length >= sequence.end else None
