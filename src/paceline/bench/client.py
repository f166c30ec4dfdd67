"""One streamed completion over a raw socket, with the time of every arrival."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paceline.bench.sse import HttpError, ResponseParser


@dataclass(slots=True)
class Timeline:
    """When the tokens of one request arrived; all times from ``time.perf_counter()``, in seconds."""

    sent: float
    arrivals: list[float] = field(default_factory=list)  # of chunks, from the first one with text (if any has)
    tokens: int = 0  # generated tokens, as the engine counts them
    prompt_tokens: int = 0
    text: str = ""
    own_seconds: float | None = None  # for the whole request, when the engine timed itself
    usage: dict[str, Any] = field(default_factory=dict)  # as the server told it last

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first token."""
        return self.arrivals[0] - self.sent

    @property
    def total(self) -> float:
        """Seconds from sending to the last token."""
        return self.own_seconds if self.own_seconds is not None else self.arrivals[-1] - self.sent

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first one."""
        return (self.tokens - 1) / max(self.arrivals[-1] - self.arrivals[0], 1e-9)


def output_rate(timelines: list[Timeline]) -> float:
    """Output tokens of all requests / (last arrival - first send)."""
    start = min(timeline.sent for timeline in timelines)
    end = max(timeline.arrivals[-1] for timeline in timelines)
    return sum(timeline.tokens for timeline in timelines) / (end - start)


def post(host: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a POST request with a JSON body."""
    payload = json.dumps(body).encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{more}"
        f"Accept: text/event-stream\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + payload


async def stream_completion(
    host: str, port: int, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Timeline:
    """Sends ``body`` (an OpenAI completion request with ``stream``) and reads the stream to its end.

    Raises ``HttpError`` with the server's message on any status but 200, on an error event and on an empty stream.
    """
    request = post(host, path, body, headers)
    loop = asyncio.get_running_loop()
    transport, stream = await loop.create_connection(TokenStream, host, port)
    try:
        stream.timeline.sent = time.perf_counter()
        transport.write(request)
        timeline = await stream.ended
    finally:
        transport.abort()
    if not timeline.arrivals:
        raise HttpError("the stream ended without a token")
    timeline.tokens = timeline.tokens or int(body.get("max_tokens") or 0)
    return timeline


class TokenStream(asyncio.Protocol):
    """Notes events as they arrive; ``timeline`` has those that came, ``ended`` is done with the answer or raises
    ``HttpError``. A protocol, not a stream reader: that would wake a task for each token."""

    def __init__(self) -> None:
        self.timeline = Timeline(sent=0.0)
        self.ended: asyncio.Future[Timeline] = asyncio.get_running_loop().create_future()
        self._parser = ResponseParser()

    @property
    def is_event_stream(self) -> bool:
        """Whether the answer came in events; otherwise the server answered whole, and arrivals say nothing."""
        return self._parser.headers.get("content-type", "").startswith("text/event-stream")

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._take(lambda: self._parser.feed(data), now)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self._take(self._parser.close, time.perf_counter())

    def _take(self, parse: Callable[[], list[bytes]], now: float) -> None:
        if self.ended.done():
            return
        try:
            for payload in parse():
                if self._parser.status != 200:
                    raise HttpError(f"status {self._parser.status}: {payload.decode(errors='replace')[:500]}")
                record(self.timeline, payload, now)
            if self._parser.finished:
                self._finish()
        except (HttpError, ValueError) as error:
            self.ended.set_exception(error)

    def _finish(self) -> None:
        if self._parser.status != 200:
            raise HttpError(f"status {self._parser.status}")
        self.ended.set_result(self.timeline)


def record(timeline: Timeline, payload: bytes, now: float) -> None:
    """Notes one event of a stream. Raises ``HttpError`` for an error event."""
    if payload == b"[DONE]":
        return
    event = json.loads(payload)
    if "error" in event:
        raise HttpError(str(event["error"])[:500])
    for choice in event.get("choices", ()):
        text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        if text and not timeline.text:
            timeline.arrivals.clear()  # what came before the first text may have been no token at all
        timeline.text += text  # later chunks without text are tokens: special ones, halves of a character
        timeline.arrivals.append(now)
    usage = event.get("usage")
    if usage:
        timeline.usage = usage
        timeline.tokens = int(usage.get("completion_tokens", 0))
        timeline.prompt_tokens = int(usage.get("prompt_tokens", 0))


async def ask(host: str, port: int, path: str, seconds: float = 2.0) -> int:
    """Status of a GET, 0 when nobody answers in time."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
            finally:
                writer.close()
        parts = line.split()
        return int(parts[1]) if len(parts) > 1 else 0
    except (OSError, TimeoutError, ValueError):
        return 0


def event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, half the CPU time a token: the client shares the cores with what it measures."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
