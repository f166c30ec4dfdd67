"""Calls to the application without a network: the same checks, answers and errors as over HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message


@dataclass(slots=True)
class Answer:
    """What the application sent."""

    status: int = 500
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


async def post(app: ASGIApp, path: str, body: bytes) -> Answer:
    """POSTs a JSON body. Cancelling the call is to the application as if the client had gone."""
    answer = Answer()
    to_send = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not to_send:
            await asyncio.get_running_loop().create_future()  # the client stays
        return to_send.pop()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = dict(message["headers"])
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        "client": None,
        "server": None,
    }
    await app(scope, receive, send)
    return answer
