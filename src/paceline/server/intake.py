"""From the wire to a checked request body: size, content type, JSON, schema, model name."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from starlette.requests import Request

from paceline.server.context import ServerContext
from paceline.server.disconnect import ClientGoneError
from paceline.server.problems import ApiError
from paceline.server.schemas import Body, decode_json, parse

B = TypeVar("B", bound=Body)

_LINGER_S = 1.0  # how long the rest of a refused body is read, so that the client gets to see the answer


async def read_body(request: Request, context: ServerContext, schema: type[B]) -> B:
    """The request's body as a ``schema``. Raises ``ApiError``."""
    return check(await read_json(request, context), context, schema)


def check(data: dict[str, Any], context: ServerContext, schema: type[B]) -> B:
    """``data`` as a ``schema``, for a model that is served here."""
    body = parse(schema, data)
    context.adapter_of(body.model, body.adapter_id)
    return body


async def read_json(request: Request, context: ServerContext) -> dict[str, Any]:
    """The JSON object that the client sent, once it is known that somebody can answer."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        message = f"Content-Type must be application/json, not '{kind}'."
        raise ApiError(415, message, code="unsupported_content_type")
    raw = await _read(request, context.config.max_body_bytes, context.config.body_timeout_s)
    problem = context.unready()
    if problem is not None:
        raise problem
    return decode_json(raw)


async def _read(request: Request, limit: int, timeout_s: float) -> bytes:
    """The whole body, never holding more than ``limit`` bytes of it."""
    raw = bytearray()
    declared = request.headers.get("content-length", "0")
    try:
        async with asyncio.timeout(timeout_s):
            if declared.isdigit() and int(declared) > limit:
                await _refuse(request, limit, True)
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                raw += message.get("body", b"")
                more = message.get("more_body", False)
                if len(raw) > limit:
                    raw.clear()
                    await _refuse(request, limit, more)
    except TimeoutError:
        late = f"The request body did not arrive within {timeout_s:g} s."
        raise ApiError(408, late, code="timeout", headers={"Connection": "close"}) from None
    return bytes(raw)


async def _refuse(request: Request, limit: int, more: bool) -> None:
    """Answers 413. Closing a connection with unread data resets it, and the answer may be lost: so some of the rest
    is read and dropped."""
    read = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            while more and read <= 4 * limit:
                message = await request.receive()
                read += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        pass
    text = f"The request body is larger than {limit} bytes; start the server with a larger --max-body-mb."
    raise ApiError(413, text, code="body_too_large", headers={"Connection": "close"})
