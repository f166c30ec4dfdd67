"""A running server by its URL: single calls, for whoever asks a few questions and measures no load.

Blocking, on the standard library: callers that want several at once use threads. Load is measured with ``client``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from paceline.bench.client import Timeline, record
from paceline.bench.sse import HttpError
from paceline.errors import PacelineError

TIMEOUT_SECONDS = 300.0
SHOWN = 300  # characters of an answer that nobody expected


class EndpointError(PacelineError):
    """The server cannot be reached, or answered something else than was asked for. ``status``: its HTTP status, 0
    where there is none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server at ``scheme://host:port`` with ``prefix`` before every path."""

    scheme: str
    host: str
    port: int
    prefix: str = ""
    api_key: str | None = None
    timeout: float = TIMEOUT_SECONDS

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.prefix}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET. Raises ``EndpointError`` when nobody answers."""
        with self._connection() as connection:
            connection.request("GET", self.prefix + path, headers=self._headers())
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON answer to a POST. Raises ``EndpointError`` for any status but 200, with the server's message."""
        with self._connection() as connection:
            connection.request("POST", self.prefix + path, json.dumps(body), self._headers())
            answer = connection.getresponse()
            return self._object(path, answer.status, answer.read())

    def stream(self, path: str, body: Mapping[str, Any]) -> Timeline:
        """A streamed generation, with the time of every arrival. Connecting is not timed. Raises ``EndpointError``."""
        with self._connection() as connection:
            connection.connect()
            timeline = Timeline(sent=time.perf_counter())
            connection.request("POST", self.prefix + path, json.dumps({**body, "stream": True}), self._headers())
            answer = connection.getresponse()
            if answer.status != 200:
                self._object(path, answer.status, answer.read())
            while line := answer.readline():
                if line.startswith(b"data:"):
                    record(timeline, line[5:].strip(), time.perf_counter())
        if not timeline.arrivals:
            raise EndpointError(f"{self.url}{path} ended a stream without a token")
        return timeline

    def round_trips(self, path: str, count: int) -> list[float]:
        """Seconds of ``count`` GETs one after another on one connection, connecting not included."""
        seconds = []
        with self._connection() as connection:
            connection.connect()
            for _ in range(count):
                began = time.perf_counter()
                connection.request("GET", self.prefix + path, headers=self._headers())
                connection.getresponse().read()
                seconds.append(time.perf_counter() - began)
        return seconds

    def models(self) -> list[dict[str, Any]]:
        """What ``/v1/models`` lists; at least one. Raises ``EndpointError``."""
        status, text = self.get("/v1/models")
        listed = self._object("/v1/models", status, text.encode()).get("data")
        if not isinstance(listed, list) or not listed or not all(isinstance(entry, dict) for entry in listed):
            raise EndpointError(f"{self.url}/v1/models names no model, but {text[:SHOWN]!r}")
        return listed

    def _headers(self) -> dict[str, str]:
        key = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return {"Content-Type": "application/json", **key}

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        kind = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=self.timeout)
        try:
            yield connection
        except TimeoutError as error:
            raise EndpointError(f"{self.url} did not answer within {self.timeout:g} s") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise EndpointError(f"cannot reach {self.url}: {reason}. Is the server running there?") from error
        except (http.client.HTTPException, HttpError, ValueError) as error:
            raise EndpointError(f"{self.url} broke off an answer: {error!r}") from error
        finally:
            connection.close()

    def _object(self, path: str, status: int, raw: bytes) -> dict[str, Any]:
        text = raw.decode(errors="replace")
        if status != 200:
            raise EndpointError(f"{self.url}{path} answered {status}: {message_in(text)}", status)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise EndpointError(f"{self.url}{path} did not answer with a JSON object, but {text[:SHOWN]!r}")
        return answer


def endpoint_of(url: str, api_key: str | None = None, timeout: float = TIMEOUT_SECONDS) -> Endpoint:
    """The server that a user names; ``/v1`` at the end may be left out. Raises ``EndpointError`` for what is no URL."""
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise EndpointError(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise EndpointError(f"{url!r} is not the URL of a server: give for example http://127.0.0.1:8000")
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    return Endpoint(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), prefix, api_key, timeout)


def message_in(text: str) -> str:
    """The message of an error body, in any of the shapes that servers have."""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if isinstance(body, dict):
        error = body.get("error", body)
        found = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        if found:
            return str(found)[:SHOWN]
    return text[:SHOWN] or "(nothing)"
