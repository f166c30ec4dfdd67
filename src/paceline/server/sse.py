"""Server-sent events, written straight to the ASGI connection.

Chunks are bytes between pre-encoded bytes: only the new text is encoded, once. Everything that waits when the event
loop comes round leaves in one write. Headers leave with the first chunk, so that whatever goes wrong before it still
has its proper status.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.engine.output import SequenceOutput
from paceline.server.context import ServerContext
from paceline.server.disconnect import ClientGoneError, WhileConnected
from paceline.server.generation import Generation
from paceline.server.problems import as_api_error, internal_error

logger = logging.getLogger("paceline.server")

DONE = b"data: [DONE]\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies should pass chunks on at once
]


class ChunkWriter(Protocol):
    """Turns outputs into the bytes of an API's events."""

    def write(self, new: Sequence[tuple[int, SequenceOutput]]) -> bytes:
        """Events for what is new; may be empty."""

    def end(self) -> bytes:
        """What follows the last output, before ``[DONE]``."""


class EventStream(Response):
    """A response that runs ``generation`` while the client listens."""

    def __init__(self, context: ServerContext, generation: Generation, writer: ChunkWriter) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = HEADERS.copy()
        self._context = context
        self._generation = generation
        self._writer = writer
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        try:
            async with WhileConnected(receive, self._context):
                await self._stream()
        except ClientGoneError:
            return
        except Exception as error:
            if not self._started:
                raise
            known = as_api_error(error)
            if known is None:
                logger.error("a stream broke off", exc_info=error)
            problem = known or internal_error()
            await self._write(b"data: " + problem.body() + b"\n\n" + DONE, more=False)

    async def _stream(self) -> None:
        generation, writer = self._generation, self._writer
        batches = generation.batches()
        try:
            async for new in batches:
                data = writer.write(new)
                if generation.finished:
                    await self._write(data + writer.end() + DONE, more=False)
                elif data:
                    await self._write(data, more=True)
        finally:
            await batches.aclose()

    async def _write(self, data: bytes, more: bool) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


class JsonAnswer(Response):
    """A JSON response from encoded bytes or from anything msgspec encodes."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return content if isinstance(content, bytes) else msgspec.json.encode(content)
