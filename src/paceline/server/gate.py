"""What happens to every call before a route sees it: the key is checked, the answer is counted."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.server.context import ServerContext
from paceline.server.problems import ApiError
from paceline.server.sse import JsonAnswer

OPEN = frozenset({"/health", "/ready", "/ping", "/metrics"})  # probes and scrapers carry no keys


class Gate:
    """Pure ASGI middleware: nothing per chunk but one function call."""

    def __init__(self, app: ASGIApp, context: ServerContext) -> None:
        self._app = app
        self._counts = context.metrics.http
        self._digests = [_digest(key.encode()) for key in context.config.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self._counts[scope["method"], route, str(message["status"])] += 1
            await send(message)

        if self._digests and scope["path"] not in OPEN and not self._known(scope["headers"]):
            problem = ApiError(
                401,
                "Incorrect or missing API key: send it as 'Authorization: Bearer KEY'.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await JsonAnswer(problem.body(), problem.status, problem.headers)(scope, receive, counting_send)
            return
        await self._app(scope, receive, counting_send)

    def _known(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Compares digests: in constant time, whatever the lengths are, and with every key."""
        sent = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, key = sent.partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        digest = _digest(key.strip())
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
