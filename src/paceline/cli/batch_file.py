"""Files of an offline batch: requests in, answers out, one JSON object a line, in OpenAI's batch format."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from paceline.errors import PacelineError

URLS = ("/v1/chat/completions", "/v1/completions")


class BatchFileError(PacelineError):
    """A file that cannot be worked with as a whole."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request. ``problem`` says why it cannot be sent; the other fields are then as far as they could be read."""

    number: int  # counted from 1
    custom_id: str | None
    url: str = ""
    body: dict[str, Any] | None = None
    problem: str | None = None


def read_lines(path: Path) -> Iterator[BatchLine]:
    """The requests in the file; blank lines are skipped. Raises ``BatchFileError`` when it cannot be read."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield parse_line(number, raw)
    except OSError as error:
        raise BatchFileError(f"cannot read {path}: {error.strerror}") from error


def parse_line(number: int, raw: bytes) -> BatchLine:
    """One line as a request, with the problem that it has."""
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return BatchLine(number, None, problem=f"not valid JSON: {error}")
    if not isinstance(data, dict):
        return BatchLine(number, None, problem="not a JSON object")
    custom_id = data.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return BatchLine(number, None, problem="custom_id must be a text, not empty")
    unknown = sorted(data.keys() - {"custom_id", "method", "url", "body"})
    body, problem = data.get("body"), None
    if unknown:
        problem = f"unknown field {unknown[0]!r}; a line has custom_id, method, url and body"
    elif data.get("method") != "POST":
        problem = f"method must be 'POST', got {data.get('method')!r}"
    elif data.get("url") not in URLS:
        problem = f"url must be one of {', '.join(URLS)}, got {data.get('url')!r}"
    elif not isinstance(body, dict):
        problem = "body must be a JSON object"
    elif body.get("stream"):
        problem = "body.stream must not be true: a batch has whole answers"
    return BatchLine(number, custom_id, str(data.get("url")), body if isinstance(body, dict) else None, problem)


def scan(path: Path) -> tuple[int, set[str]]:
    """How many lines there are, and their ids. Raises ``BatchFileError`` naming the first id that occurs twice."""
    seen: dict[str, int] = {}
    count = 0
    for line in read_lines(path):
        count += 1
        if line.custom_id is None:
            continue
        first = seen.setdefault(line.custom_id, line.number)
        if first != line.number:
            raise BatchFileError(f"{path}: custom_id {line.custom_id!r} is on line {first} and again on {line.number}")
    return count, set(seen)


def output_line(custom_id: str | None, request_id: str, status: int, body: Any, error: Any) -> dict[str, Any]:
    """A line of the output: the answer, or ``error`` with the number of the request's line."""
    return {
        "id": f"batch_req_{request_id}",
        "custom_id": custom_id,
        "response": {"status_code": status, "request_id": request_id, "body": body},
        "error": error,
    }


_HEAD = b'{"id":"batch_req_'


class OutputFile:
    """Answers that are safe once written. ``finished`` are the ids that succeeded in earlier runs.

    Opening drops what an earlier run could not finish: a line cut in the middle, and lines of failures, which are
    tried again. A file with anything else in it is refused. A line is appended in one write. Only one run at a time
    may hold the file.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``BatchFileError`` when the file cannot be written, or is not one of these."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            raise BatchFileError(f"cannot write {path}: {error.strerror}") from error
        try:
            self.finished = self._clean()
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, OSError):
                raise BatchFileError(f"cannot write {path}: {error.strerror}") from error
            raise

    def _open(self) -> int:
        """The file, locked; not one that another run has just replaced."""
        while True:
            file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_ino == self.path.stat().st_ino:
                    return file
            except BlockingIOError:
                os.close(file)
                raise BatchFileError(f"{self.path} is being written by another run") from None
            os.close(file)

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line. Raises ``BatchFileError`` when it cannot be written whole; what was written of it is dropped."""
        data = msgspec.json.encode(line) + b"\n"
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
            while written < len(data):  # a signal, or a disk that gets full
                written += os.write(self._file, data[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise BatchFileError(f"cannot write {self.path}: {error.strerror}; run again to go on") from error

    def close(self) -> None:
        """Everything is on the disk when this returns."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _clean(self) -> set[str]:
        """Ids that are done. Replaces the file by one without everything else when there is anything else."""
        finished: set[str] = set()
        dropped = False
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with open(handle, "wb", closefd=False) as kept, self.path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    if not raw.startswith(_HEAD[: len(raw)]):
                        raise BatchFileError(f"{self.path} line {number} is no answer of a batch: choose another file")
                    custom_id = _succeeded(raw)
                    if custom_id is None:
                        dropped = True
                        continue
                    finished.add(custom_id)
                    kept.write(raw)
            if dropped:
                self._replace(handle, temporary)
        finally:
            os.close(handle)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        return finished

    def _replace(self, handle: int, temporary: str) -> None:
        """Puts the file that ``handle`` has written in the place of the one that is open."""
        os.fsync(handle)
        shutil.copymode(self.path, temporary)
        file = os.open(temporary, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        fcntl.flock(file, fcntl.LOCK_EX)  # before anybody can see it
        os.replace(temporary, self.path)
        os.close(self._file)
        self._file = file


def _succeeded(raw: bytes) -> str | None:
    """The id of an output line that is whole and good."""
    if not raw.endswith(b"\n"):
        return None
    try:
        data = msgspec.json.decode(raw)
        good = data["error"] is None and data["response"]["status_code"] == 200
        custom_id = data["custom_id"]
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError):
        return None
    return custom_id if good and isinstance(custom_id, str) else None
