"""What is measured: an engine that streams tokens for given prompt ids, in processes that can be suspended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from paceline.bench.client import Timeline, ask, stream_completion
from paceline.bench.processes import Memory, ProcessTree

HOST = "127.0.0.1"
POLL_SECONDS = 0.01


class TargetError(Exception):
    """An engine did not start or did not answer; the message has the end of its log."""


#: ``own``: Paceline's server; ``library``: Paceline without a server; ``peer``: another engine.
Kind = Literal["own", "library", "peer"]


class Target(ABC):
    """An engine under test. ``name`` is what tables show; ``baseline`` marks the peer that the goal for decoding on the
    same model file is about."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        kind: Kind = "peer",
        baseline: bool = False,
        start_timeout: float = 240.0,
    ) -> None:
        self.name = name
        self.kind = kind
        self.baseline = baseline
        self.command = list(command)
        self.environment = dict(environment or {})
        self.start_timeout = start_timeout
        self.tree: ProcessTree | None = None
        self.suspended = False

    async def start(self, prompt: Sequence[int]) -> float:
        """Starts the engine; gives the seconds until the first token of ``prompt`` arrived."""
        tree = await self.open()
        timeline = await self.generate(prompt, 1)
        return timeline.arrivals[0] - tree.started

    async def open(self) -> ProcessTree:
        """Starts the engine and waits until it is ready. Raises ``TargetError``."""
        tree = self.tree = self._launch()
        self.suspended = False
        deadline = tree.started + self.start_timeout
        while not await self._is_ready():
            if tree.process.poll() is not None:
                raise TargetError(f"{self.name} ended while starting:\n{tree.tail()}")
            if time.perf_counter() > deadline:
                raise TargetError(f"{self.name} was not ready after {self.start_timeout:.0f} s:\n{tree.tail()}")
            await asyncio.sleep(POLL_SECONDS)
        return tree

    def stop(self) -> None:
        """Ends all its processes; harmless when it does not run."""
        if self.tree is not None:
            self.tree.stop()
            self.tree = None

    def suspend(self) -> None:
        if self.tree is not None and not self.suspended:
            self.tree.suspend()
            self.suspended = True

    def resume(self) -> None:
        if self.tree is not None and self.suspended:
            self.tree.resume()
            self.suspended = False

    def memory(self) -> Memory:
        return self.tree.memory() if self.tree is not None else Memory(0.0, 0.0)

    @abstractmethod
    def _launch(self) -> ProcessTree: ...

    @abstractmethod
    async def _is_ready(self) -> bool: ...

    @abstractmethod
    async def generate(self, prompt: Sequence[int], max_tokens: int) -> Timeline:
        """Streams exactly ``max_tokens`` tokens, greedy, for a prompt of token ids."""


class HttpTarget(Target):
    """A server with OpenAI's completions route. ``{port}`` in the command becomes a free port; ``extra`` goes into
    every request (switches that only this server knows)."""

    def __init__(
        self, *args: Any, extra: Mapping[str, Any] | None = None, ready: str = "/health", **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.extra = dict(extra or {})
        self.ready = ready
        self.port = 0

    def _launch(self) -> ProcessTree:
        self.port = free_port()
        return ProcessTree([part.replace("{port}", str(self.port)) for part in self.command], self.environment)

    async def _is_ready(self) -> bool:
        return await ask(HOST, self.port, self.ready) == 200

    async def generate(self, prompt: Sequence[int], max_tokens: int) -> Timeline:
        body = {
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            **self.extra,
        }
        timeline = await stream_completion(HOST, self.port, "/v1/completions", body)
        return check_lengths(self.name, timeline, len(prompt), max_tokens)


class WorkerTarget(Target):
    """An engine without a server of its own: a worker process that reads requests as JSON lines.

    It says ``{"ready": true}``, answers each request with lines ``{"id", "tokens"}`` as tokens come and ends it with
    ``{"id", "done": true}``. Times are taken here, when a line arrives, as for the servers; a worker may add to its
    last line the ``seconds`` that the request took by its own clock.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._queues: dict[int, asyncio.Queue[tuple[float, dict[str, Any]]]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._next_id = 0

    def _launch(self) -> ProcessTree:
        self._ready = asyncio.Event()
        tree = ProcessTree(self.command, self.environment, pipes=True)
        self._reading = asyncio.get_running_loop().create_task(self._read_lines(tree))
        return tree

    async def _is_ready(self) -> bool:
        return self._ready.is_set()

    async def _read_lines(self, tree: ProcessTree) -> None:
        assert tree.process.stdout is not None
        reader = asyncio.StreamReader()
        # The transport closes its file later than the tree does; with one descriptor between them it would then close
        # (and stop watching) whatever was opened under that number meanwhile.
        pipe = os.fdopen(os.dup(tree.process.stdout.fileno()), "rb", buffering=0)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while line := await reader.readline():
                self._take_line(line, time.perf_counter())
        finally:
            transport.close()
        for queue in self._queues.values():
            queue.put_nowait((time.perf_counter(), {"error": "the worker ended"}))

    def _take_line(self, line: bytes, now: float) -> None:
        if not line.startswith(b"{"):
            return  # a library's own chatter
        event = json.loads(line)
        if event.get("ready"):
            self._ready.set()
        elif event.get("id") in self._queues:
            self._queues[event["id"]].put_nowait((now, event))

    async def generate(self, prompt: Sequence[int], max_tokens: int) -> Timeline:
        assert self.tree is not None and self.tree.process.stdin is not None
        self._next_id += 1
        number = self._next_id
        queue = self._queues[number] = asyncio.Queue()
        line = json.dumps({"id": number, "prompt": list(prompt), "max_tokens": max_tokens})
        timeline = Timeline(sent=time.perf_counter(), prompt_tokens=len(prompt))
        try:
            self.tree.process.stdin.write(line.encode() + b"\n")
            self.tree.process.stdin.flush()
            while True:
                now, event = await queue.get()
                if "error" in event:
                    raise TargetError(f"{self.name}: {event['error']}\n{self.tree.tail()}")
                if event.get("tokens"):
                    timeline.arrivals.append(now)
                    timeline.tokens += event["tokens"]
                if event.get("done"):
                    timeline.own_seconds = event.get("seconds")
                    return check_lengths(self.name, timeline, len(prompt), max_tokens)
        finally:
            del self._queues[number]

    def stop(self) -> None:
        if self.tree is not None and self.tree.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.tree.process.stdin.close()
        super().stop()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


def check_lengths(name: str, timeline: Timeline, prompt_tokens: int, tokens: int) -> Timeline:
    """Refuses a measurement of another length than asked: its speed would not be comparable."""
    if not timeline.arrivals:
        raise TargetError(f"{name} ended a request without a token")
    if timeline.tokens != tokens or timeline.prompt_tokens not in (0, prompt_tokens):
        raise TargetError(
            f"{name} made {timeline.tokens} tokens for a prompt of {timeline.prompt_tokens}; "
            f"asked for {tokens} after {prompt_tokens}"
        )
    return timeline


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
