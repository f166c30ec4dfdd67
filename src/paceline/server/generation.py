"""The engine's side of one HTTP call: its requests, their text, what they used, what it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from paceline.engine.detokenizer import TokenBytes
from paceline.engine.messages import Request, SequenceDelta, SequenceDrafts
from paceline.engine.output import RequestText, SequenceOutput
from paceline.engine.speculation_report import total
from paceline.server.metrics import Metrics
from paceline.server.ports import EngineClient
from paceline.server.problems import ApiError


@dataclass(slots=True)
class Usage:
    """Tokens of one HTTP call. Prompts count once, however many sequences are made from them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reported: Sequence[RequestText] = ()  # those that tell what speculation did

    def as_dict(self) -> dict[str, object]:
        usage: dict[str, object] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reported:
            reports = [report for text in self.reported if (report := text.speculation) is not None]
            usage["speculation"] = total(reports).as_dict()
        return usage


class _Timer:
    """When things happened to one request."""

    __slots__ = ("arrived", "counts", "first", "last", "queued")

    def __init__(self, n: int, arrived: float) -> None:
        self.arrived = arrived
        self.queued = 0.0
        self.first: float | None = None
        self.last = [0.0] * n
        self.counts = [0] * n


class Generation:
    """Requests in the engine on behalf of one HTTP call. Iterate over ``batches`` once; leaving it early aborts."""

    def __init__(
        self,
        engine: EngineClient,
        metrics: Metrics,
        table: TokenBytes,
        requests: Sequence[Request],
        arrived: float,
        hide_output: bool = False,
        record: Callable[[Request, Sequence[int], SequenceDrafts | None], None] | None = None,
    ) -> None:
        self.requests = requests
        self.texts = [RequestText(request, table) for request in requests]
        self.usage = Usage(
            prompt_tokens=sum(len(request.prompt_ids) for request in requests),
            reported=self.texts if requests[0].params.wants_report else (),
        )
        self._hide_output = hide_output  # what is generated is a by-product: it does not count as usage
        self._record = record  # gets every text that is complete, to learn from
        self._engine = engine
        self._metrics = metrics
        self._timers = [_Timer(request.params.n, arrived) for request in requests]
        self._open = sum(request.params.n for request in requests)
        self._arrived: list[tuple[int, SequenceDelta]] = []
        self._to_abort: list[tuple[str, int]] = []
        self._failure: Exception | None = None
        self._wake = asyncio.Event()

    @property
    def finished(self) -> bool:
        """Whether every sequence has ended."""
        return self._open == 0

    async def run(self) -> None:
        """Waits for the end; the result is in ``texts``."""
        async for _ in self.batches():
            pass

    def batches(self) -> AsyncGenerator[list[tuple[int, SequenceOutput]], None]:
        """What is new, with the index of the prompt it belongs to: everything that has arrived, at most one output a
        sequence. Raises ``ApiError`` or what the engine raised. To be closed by whoever leaves it early."""
        return self._one() if len(self.requests) == 1 and self.requests[0].params.n == 1 else self._many()

    async def _one(self) -> AsyncGenerator[list[tuple[int, SequenceOutput]], None]:
        """The common case, one sequence: the engine client has merged what came together already."""
        deltas = self._engine.generate(self.requests[0])
        try:
            async for delta in deltas:
                out = self._take(0, delta)
                if self._failure is not None:
                    raise self._failure
                if out is not None:
                    yield [(0, out)]
                if self.finished:
                    return
            raise _ended_early()
        finally:
            await deltas.aclose()
            self._count_aborted()

    async def _many(self) -> AsyncGenerator[list[tuple[int, SequenceOutput]], None]:
        """Several sequences: whatever has arrived when the event loop comes round is given together."""
        pumps = [asyncio.ensure_future(self._pump(i, request)) for i, request in enumerate(self.requests)]
        try:
            while not self.finished:
                await self._wake.wait()
                self._wake.clear()
                arrived, self._arrived = self._arrived, []
                new = [(i, out) for i, delta in arrived if (out := self._take(i, delta)) is not None]
                while self._to_abort:
                    await self._engine.abort(*self._to_abort.pop())
                if self._failure is not None:
                    raise self._failure
                if new:
                    yield new if len(new) == 1 else _merge(new)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._count_aborted()

    async def _pump(self, index: int, request: Request) -> None:
        deltas = self._engine.generate(request)
        seen = 0
        try:
            async for delta in deltas:
                seen += delta.finish_reason is not None
                self._arrived.append((index, delta))
                self._wake.set()
            if seen < request.params.n and not self.texts[index].finished:
                raise _ended_early()
        except Exception as error:
            self._failure = error
            self._wake.set()
        finally:
            await deltas.aclose()

    def _count_aborted(self) -> None:
        self._metrics.finished["abort"] += self._open

    def _take(self, index: int, delta: SequenceDelta) -> SequenceOutput | None:
        text = self.texts[index]
        out = text.add(delta)
        if out is None:
            return None
        self._time(index, delta, len(out.token_ids))
        if out.finish_reason is not None:
            self._finish(index, delta, out)
        return out

    def _time(self, index: int, delta: SequenceDelta, count: int) -> None:
        now, timer, metrics = time.monotonic(), self._timers[index], self._metrics
        if not self._hide_output:
            self.usage.completion_tokens += count
        metrics.generation_tokens += count
        if timer.first is None:
            timer.first = now
            metrics.ttft.observe(now - timer.arrived)
            self._begin(index, delta, timer)
        elif timer.last[delta.index]:
            metrics.itl.observe(now - timer.last[delta.index])
        timer.last[delta.index] = now
        timer.counts[delta.index] += count

    def _begin(self, index: int, delta: SequenceDelta, timer: _Timer) -> None:
        request, metrics = self.requests[index], self._metrics
        self.usage.cached_tokens += delta.num_cached_tokens
        timer.queued = delta.queue_time or 0.0
        assert timer.first is not None
        metrics.queue_time.observe(timer.queued)
        metrics.prefill_time.observe(max(0.0, timer.first - timer.arrived - timer.queued))
        metrics.prompt_tokens += len(request.prompt_ids)
        metrics.request_prompt.observe(len(request.prompt_ids))
        metrics.request_n.observe(request.params.n)

    def _finish(self, index: int, delta: SequenceDelta, out: SequenceOutput) -> None:
        self._open -= 1
        timer, metrics = self._timers[index], self._metrics
        count, first, now = timer.counts[delta.index], timer.first, timer.last[delta.index]
        assert out.finish_reason is not None and first is not None
        metrics.finished[out.finish_reason] += 1
        metrics.request_generation.observe(count)
        if count > 1:
            metrics.tpot.observe((now - first) / (count - 1))
        if self.texts[index].finished:
            metrics.e2e.observe(now - timer.arrived)
            metrics.decode_time.observe(now - first)
        if self._record is not None and out.finish_reason in ("stop", "length"):
            written = self.texts[index].token_ids(delta.index)
            self._record(self.requests[index], written, delta.drafts)
        if delta.finish_reason is None and self._open:  # a stop string, while other sequences go on
            self._to_abort.append((self.requests[index].request_id, delta.index))
        if out.finish_reason == "error":
            self._failure = ApiError(500, out.error or "The engine could not go on.", code="engine_error")
        elif out.finish_reason == "abort":
            self._failure = ApiError(503, "The request was aborted.", code="aborted")


def _ended_early() -> ApiError:
    return ApiError(500, "The engine ended the request early.", code="engine_error")


def _merge(new: list[tuple[int, SequenceOutput]]) -> list[tuple[int, SequenceOutput]]:
    """One output a sequence, in the order in which sequences first appear."""
    merged: dict[tuple[int, int], SequenceOutput] = {}
    for i, out in new:
        whole = merged.setdefault((i, out.index), out)
        if whole is out:
            continue
        whole.text += out.text
        whole.token_ids = whole.token_ids + out.token_ids
        whole.text_offsets = whole.text_offsets + out.text_offsets
        whole.sources = whole.sources + out.sources
        if out.logprobs is not None:
            whole.logprobs = (whole.logprobs or []) + out.logprobs
        whole.finish_reason, whole.stop_reason, whole.error = out.finish_reason, out.stop_reason, out.error
    return [(i, out) for (i, _), out in merged.items()]
