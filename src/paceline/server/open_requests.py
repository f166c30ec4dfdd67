"""Requests whose consumers wait for tokens: what they have been given, and what is ready for them."""

from __future__ import annotations

import asyncio

import msgspec

from paceline.engine.messages import AdapterInfo, Request, SequenceDelta


class OpenRequest:
    """One request on its way: knows all tokens that came, so that another engine can go on behind them.

    Deltas that the consumer has not taken yet are merged, one for each sequence, so a slow consumer gets fewer and
    larger ones and never holds up anybody. Where a report about speculation is wanted they stay apart: each is a step.
    """

    __slots__ = (
        "_apart", "_finished", "_outputs", "_pending", "_prompt_scored", "_reported", "_request", "_waiter", "adapter",
        "deaths", "error", "progressed", "submitted",
    )  # fmt: skip

    def __init__(self, request: Request) -> None:
        count = request.params.n
        assert request.params.seed is not None, "whoever creates a request draws its seed"
        self._request = request
        self._outputs: list[list[int]] = [list(tokens) for tokens in request.outputs]
        self._outputs += [[] for _ in range(count - len(self._outputs))]
        self._finished = list(request.finished) + [False] * (count - len(request.finished))
        self._pending: dict[tuple[int, int], SequenceDelta] = {}
        self._apart = request.params.wants_report
        self._waiter: asyncio.Future[None] | None = None
        self._reported: set[int] = set()  # sequences whose first delta came: its facts are told once
        self._prompt_scored = False
        self.adapter: AdapterInfo | None = None  # the one that its name meant when it came
        self.error: Exception | None = None
        self.submitted = False  # sent to the engine process that runs now
        self.progressed = False  # got something from it
        self.deaths = 0  # engine processes in a row that died without giving it anything

    @property
    def request_id(self) -> str:
        return self._request.request_id

    @property
    def adapter_name(self) -> str | None:
        return self._request.adapter

    @property
    def has_outputs(self) -> bool:
        """Whether some of its text exists."""
        return any(self._outputs)

    @property
    def num_unfinished(self) -> int:
        return self._finished.count(False)

    @property
    def over(self) -> bool:
        """Nothing more will come from an engine."""
        return self.error is not None or all(self._finished)

    def resubmission(self) -> Request:
        """The request as a new engine must see it: with the tokens and ends that were received."""
        if not self._reported and not any(self._finished):
            return self._request
        params = self._request.params
        if self._prompt_scored:
            params = msgspec.structs.replace(params, prompt_logprobs=None)
        outputs = [list(tokens) for tokens in self._outputs]
        return msgspec.structs.replace(self._request, params=params, outputs=outputs, finished=list(self._finished))

    def accept(self, delta: SequenceDelta) -> None:
        """Takes a delta from the engine; one of a sequence that has ended (or was aborted) is dropped."""
        index = delta.index
        if self.error is not None or self._finished[index]:
            return
        self.progressed = True
        if index in self._reported:
            delta.queue_time = None
            delta.num_cached_tokens = 0
        self._reported.add(index)
        self._prompt_scored = self._prompt_scored or delta.prompt_logprobs is not None
        self._outputs[index] += delta.token_ids
        self._finished[index] = delta.finish_reason is not None
        key = (index, len(self._pending) if self._apart else 0)
        pending = self._pending.get(key)
        if pending is None:
            self._pending[key] = delta
        else:
            merge(pending, delta)
        self._wake()

    def finish(self, index: int | None) -> None:
        """The consumer wants no more of sequence ``index`` (None: of all)."""
        for i in range(len(self._finished)) if index is None else (index,):
            self._finished[i] = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Ends the request: the consumer gets what is pending, then ``error``."""
        if not self.over:
            self.error = error
            self._wake()

    async def take(self) -> list[SequenceDelta]:
        """What came since the last call; waits for something to come. [] when the request is over.

        Raises the error that ended it.
        """
        if not self._pending and not self.over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._pending:
            deltas = list(self._pending.values())
            self._pending.clear()
            return deltas
        if self.error is not None:
            raise self.error
        return []

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merge(first: SequenceDelta, second: SequenceDelta) -> None:
    """Appends ``second`` to ``first``."""
    first.token_ids += second.token_ids
    if second.logprobs is not None:
        first.logprobs = (first.logprobs or []) + second.logprobs
    if second.prompt_logprobs is not None:
        first.prompt_logprobs = second.prompt_logprobs
    if second.queue_time is not None:
        first.queue_time, first.num_cached_tokens = second.queue_time, second.num_cached_tokens
    first.drafts = second.drafts
    first.finish_reason, first.stop_token, first.error = second.finish_reason, second.stop_token, second.error
