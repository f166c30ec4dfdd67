"""Errors as OpenAI clients expect them: ``{"error": {"message", "type", "param", "code"}}`` and the right status."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from paceline.errors import EngineDeadError, InvalidRequestError, OverloadedError, PacelineError

_VALUE_SHOWN = 80  # characters of a refused value that are repeated to the client
_NO_VALUE = frozenset({"missing", "extra_forbidden", "model_type", "dict_type", "list_type"})


class ApiError(PacelineError):
    """An answer other than 200, with everything that the client is told."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def type(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


def as_api_error(error: Exception) -> ApiError | None:
    """The answer for an error raised on purpose; None for one that nobody foresaw."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OverloadedError):
        retry = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
        return ApiError(429, str(error), code="queue_full", headers=retry)
    if isinstance(error, EngineDeadError):
        return ApiError(503, str(error) or "The engine is not running.", code="engine_dead")
    if isinstance(error, InvalidRequestError):
        return ApiError(400, error.message, param=error.param, code="invalid_value")
    return None


def internal_error() -> ApiError:
    """What the client learns of an unforeseen error: nothing but where to look. The HTTP server closes the connection
    behind it: whoever is not told would send the next request into a closed one."""
    headers = {"Connection": "close"}
    return ApiError(500, "Internal error; the server's log says more.", code="internal_error", headers=headers)


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?``, or nothing when no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def from_validation(error: ValidationError, known: Iterable[str]) -> ApiError:
    """The first thing that is wrong with a request body, in words that name the parameter and the value."""
    details = error.errors(include_url=False, include_context=False)
    # A union reports one line for every alternative: unknown names come first because they explain the others.
    first = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
    param = _path(first["loc"])
    kind = first["type"]
    if kind == "extra_forbidden":
        message = f"Unknown parameter: '{param}'.{nearest(str(first['loc'][-1]), known)}"
        return ApiError(400, message, param=param, code="unknown_parameter")
    if kind == "missing":
        return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    reason = first["msg"].removeprefix("Value error, ")
    shown = "" if kind in _NO_VALUE else f", got {_shown(first['input'])}"
    return ApiError(400, f"Invalid value for '{param}': {reason}{shown}.", param=param or None, code="invalid_value")


def _path(location: Sequence[int | str]) -> str:
    """``messages[0].content`` from pydantic's location, without the names of union members."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and not part[0].isupper() and part not in ("str", "int", "float", "bool"):
            text += f".{part}" if text else part
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _VALUE_SHOWN else text[:_VALUE_SHOWN] + "…"
