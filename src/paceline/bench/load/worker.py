"""The load generator: ``python -m paceline.bench.load.worker [PLAN]``.

A process of its own, so that neither the command's work nor the server's disturbs the times. Without a file the plan is
the first line of standard input; after the warm-up a line ``{"ready": ...}`` is written, and a line of input starts the
clock. Then a line comes for each request that ended (``records.py``), and at last one with ``{"client": ...}``.
SIGTERM ends a point early: what is open is cut off.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paceline.bench.client import TokenStream, event_loop, post
from paceline.bench.endpoint import message_in
from paceline.bench.load.plan import Plan, PlannedRequest
from paceline.bench.load.records import ClientReport, RequestRecord, text_hash
from paceline.bench.sse import HttpError
from paceline.bench.statistics import quantile

LAG_SECONDS = 0.02  # between looks at the event loop
REFUSED_LIMIT = 10  # connections in a row that nobody took: the server is gone
SHOWN = 200  # characters of an error

Write = Callable[[str], None]


class LoadGenerator:
    """Sends a plan's requests and writes a line for each. ``run`` gives what is to be said of the client itself."""

    def __init__(self, plan: Plan, write: Write) -> None:
        self.plan = plan
        self.write = write
        self._bytes = [self._encode(request) for request in plan.requests]
        self._tls = ssl.create_default_context() if plan.tls else None
        self._start = 0.0
        self._sent = 0
        self._refused = 0
        self._stop = asyncio.Event()
        self._stopped = ""
        self._lags: list[float] = []

    async def warm_up(self) -> str:
        """Sends the warm-up, one request after the other; the error of the last one that had one, or ""."""
        error = ""
        for request in self.plan.warm_up:
            record = RequestRecord(-1, request.model, 0.0)
            await self._exchange(record, self._encode(request))
            error = record.error or error
        return error

    async def run(self) -> ClientReport:
        """One point, from its first request to its last answer."""
        gc.freeze()  # the plan is large and lives to the end: looking through it would hold up the loop
        watcher = asyncio.create_task(self._watch())
        self._start, cpu = time.perf_counter(), time.process_time()
        open_requests: set[asyncio.Task[None]] = set()
        if self.plan.concurrency is None:
            await self._open_loop(open_requests)
        else:
            await self._closed_loop(open_requests, self.plan.concurrency)
        watcher.cancel()
        seconds = self._now()
        lags = self._lags or [0.0]
        return ClientReport(
            seconds=seconds,
            lag_p99=quantile(lags, 0.99),
            lag_max=max(lags),
            cores=(time.process_time() - cpu) / seconds if seconds else 0.0,
            unsent=len(self.plan.requests) - self._sent if self._stopped else 0,
            stopped=self._stopped,
        )

    def stop(self, reason: str) -> None:
        """No request is sent any more, open ones are cut off."""
        self._stopped = self._stopped or reason
        self._stop.set()

    async def _open_loop(self, tasks: set[asyncio.Task[None]]) -> None:
        for index, request in enumerate(self.plan.requests):
            await self._until(request.at)
            if self._stop.is_set():
                break
            self._sent += 1
            self._begin(tasks, self._send(index, request.at))
        await self._drain(tasks, self.plan.drain, f"unfinished {self.plan.drain:g} s after the last arrival")

    async def _closed_loop(self, tasks: set[asyncio.Task[None]], concurrency: int) -> None:
        indices = iter(range(len(self.plan.requests)))
        for _ in range(concurrency):
            self._begin(tasks, self._place(indices))
        if self.plan.duration is not None:
            await self._drain(tasks, self.plan.duration, "")
            if tasks and not self._stop.is_set():
                await self._drain(tasks, self.plan.drain, f"unfinished {self.plan.drain:g} s after the last request")
        else:
            await self._drain(tasks, None, "")

    async def _place(self, indices: Iterator[int]) -> None:
        """A place of a closed loop: one request after another while there are any."""
        for index in indices:
            self._sent += 1
            await self._send(index, self._now())
            over = self.plan.duration is not None and self._now() >= self.plan.duration
            if over or self._stop.is_set():
                return

    def _begin(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _drain(self, tasks: set[asyncio.Task[None]], seconds: float | None, reason: str) -> None:
        """Waits for open requests; with a ``reason``, or when the point was stopped, cuts off those that are left."""
        if tasks:
            waits = [asyncio.create_task(self._stop.wait()), asyncio.create_task(_all_of(tasks))]
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        if tasks and (reason or self._stop.is_set()):
            for task in list(tasks):
                task.cancel(self._stopped or reason)
            await _all_of(tasks)

    async def _until(self, at: float) -> None:
        left = at - self._now()
        if left > 0:
            try:
                async with asyncio.timeout(left):
                    await self._stop.wait()
            except TimeoutError:
                return

    async def _send(self, index: int, scheduled: float) -> None:
        record = RequestRecord(index, self.plan.requests[index].model, scheduled)
        await self._exchange(record, self._bytes[index])
        self.write(record.line())

    async def _exchange(self, record: RequestRecord, request: bytes) -> None:
        """Sends one request and reads its answer; fills the record."""
        stream: TokenStream | None = None
        transport: asyncio.Transport | None = None
        record.sent = self._now()
        try:
            async with asyncio.timeout(self.plan.timeout):
                transport, stream = await asyncio.get_running_loop().create_connection(
                    TokenStream, self.plan.host, self.plan.port, ssl=self._tls
                )
                record.connected, self._refused = self._now(), 0
                transport.write(request)
                await stream.ended
        except TimeoutError:
            record.error = f"no end within {self.plan.timeout:g} s"
        except HttpError as error:
            record.error = short(str(error))
        except OSError as error:
            record.error = self._broken(error, record.connected is not None)
        except asyncio.CancelledError as error:
            record.error = str(error) or "cut off"
        finally:
            if transport is not None:
                transport.abort()
        record.ended = self._now()
        if stream is not None:
            self._fill(record, stream)

    def _fill(self, record: RequestRecord, stream: TokenStream) -> None:
        timeline = stream.timeline
        record.arrivals = [arrival - self._start for arrival in timeline.arrivals]
        record.prompt_tokens = timeline.prompt_tokens
        record.counted = timeline.tokens > 0
        record.tokens = timeline.tokens or len(record.arrivals)
        record.text = text_hash(timeline.text)
        if record.error:
            return
        if not stream.is_event_stream:
            record.error = "answered whole, not as a stream of events"
        elif not record.arrivals or not (timeline.text or record.counted):
            record.error = "ended without a token"
        else:
            record.ended = record.arrivals[-1]

    def _broken(self, error: OSError, connected: bool) -> str:
        reason = error.strerror or str(error) or type(error).__name__
        if connected:
            return f"connection lost: {reason}"
        self._refused += 1
        if self._refused >= REFUSED_LIMIT:
            self.stop(f"{REFUSED_LIMIT} connections in a row failed: {reason}")
        return f"no connection: {reason}"

    async def _watch(self) -> None:
        """Notes by how much a timer of the loop is late: as late are the times of arrivals at most."""
        while True:
            expected = time.perf_counter() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._lags.append(max(0.0, time.perf_counter() - expected))

    def _encode(self, request: PlannedRequest) -> bytes:
        return post(f"{self.plan.host}:{self.plan.port}", request.path, request.body, self.plan.headers)

    def _now(self) -> float:
        return time.perf_counter() - self._start


async def _all_of(tasks: set[asyncio.Task[None]]) -> None:
    await asyncio.wait(list(tasks))


def short(error: str) -> str:
    """``status 429: {"error": {"message": ...}}`` with the message alone."""
    status, found, body = error.partition(": ")
    return f"{status}: {message_in(body)}"[:SHOWN] if found and body.startswith("{") else error[:SHOWN]


async def generate(plan: Plan, write: Write, wait: Callable[[], object]) -> None:
    """Warm-up, ``wait()``, the point, and the last line."""
    generator = LoadGenerator(plan, write)
    error = await generator.warm_up()
    write(json.dumps({"ready": True, "error": error}))
    wait()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, generator.stop, "stopped")
    report = await generator.run()
    write(json.dumps({"client": asdict(report)}))


def main(arguments: list[str]) -> None:
    """Reads the plan, sends it, writes what came of it."""
    plan = Plan.from_json(Path(arguments[0]).read_bytes() if arguments else sys.stdin.buffer.readline())

    def write(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    wait = (lambda: None) if arguments else sys.stdin.buffer.readline
    with asyncio.Runner(loop_factory=event_loop) as runner:
        runner.run(generate(plan, write, wait))


if __name__ == "__main__":
    main(sys.argv[1:])
