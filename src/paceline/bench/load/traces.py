"""Request traces: when requests came, and how long they were. Texts of these lengths are made in ``trace_texts``."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, islice
from pathlib import Path

from paceline.bench.load.servegen import is_servegen, servegen_requests
from paceline.bench.prompts import DataError
from paceline.bench.speculation.workloads import rows

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
FORMATS = (
    "Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens), Mooncake's JSON lines (timestamp, input_length, "
    "output_length, hash_ids) or ServeGen's *_trace.csv beside its *_dataset.jsonl, gzip allowed"
)


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """``at``: seconds from the trace's start. ``blocks``: ids of the prompt's blocks of 512 tokens; requests that share
    ids from the first one on share that text. Empty: nothing is known of shared text."""

    at: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """``requests`` in the order of arrival, the first one's window at zero."""

    path: Path
    kind: str
    requests: Sequence[TraceRequest]

    def faster(self, speedup: float) -> list[TraceRequest]:
        """The same requests ``speedup`` times as fast."""
        return [replace(request, at=request.at / speedup) for request in self.requests]


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a trace is replayed: from ``start`` seconds of it on, its first ``limit`` requests, of the first
    ``seconds``; None: all. ``seed`` draws arrivals where a trace has only their distributions."""

    start: float = 0.0
    limit: int | None = None
    seconds: float | None = None
    seed: int = 0


def read_trace(path: Path, window: Window | None = None) -> Trace:
    """Raises ``DataError`` for another format, a broken row, and a window without requests."""
    window = window or Window()
    if not path.is_file():
        raise DataError(f"trace {path} is missing")
    kind, requests = _reader(path, window)
    end = None if window.seconds is None else window.start + window.seconds
    try:
        inside = (r for r in requests if r.at >= window.start and (end is None or r.at < end))
        found = sorted(inside, key=lambda request: request.at)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not have the expected layout ({kind}): {error!r}") from error
    found = list(islice(found, window.limit))
    if not found:
        raise DataError(f"{path} has no request from {window.start:g} s on; start earlier or take more seconds of it")
    return Trace(path, kind, [replace(request, at=request.at - window.start) for request in found])


def _reader(path: Path, window: Window) -> tuple[str, Iterator[TraceRequest]]:
    if is_servegen(path):
        drawn = servegen_requests(path, window.start, window.seconds, window.limit, window.seed)
        return "ServeGen", (TraceRequest(*values) for values in drawn)
    name = path.name.removesuffix(".gz")
    first = _text(path).readline()
    if name.endswith(".csv") and tuple(first.strip().split(",")) == AZURE_COLUMNS:
        return "Azure", _azure(path)
    if name.endswith(".jsonl") and '"hash_ids"' in first and '"input_length"' in first:
        return "Mooncake", _mooncake(path)
    raise DataError(f"{path} is no trace that can be replayed: give {FORMATS}")


def _azure(path: Path) -> Iterator[TraceRequest]:
    lines = csv.DictReader(_text(path))
    first = next(lines, None)
    if first is None:
        return
    start = _time(first["TIMESTAMP"])
    for row in chain([first], lines):
        seconds = (_time(row["TIMESTAMP"]) - start).total_seconds()
        yield TraceRequest(seconds, int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _time(text: str) -> datetime:
    whole, _, fraction = text.partition(".")  # seven digits, one more than Python's six
    return datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}")


def _mooncake(path: Path) -> Iterator[TraceRequest]:
    for row in rows(path):
        lengths = int(row["input_length"]), int(row["output_length"])
        yield TraceRequest(row["timestamp"] / 1e3, *lengths, tuple(int(block) for block in row["hash_ids"]))


def _text(path: Path) -> io.TextIOBase:
    opener = gzip.open if path.suffix == ".gz" else open
    file: io.TextIOBase = opener(path, "rt", encoding="utf-8", newline="\n")  # type: ignore[assignment]
    return file
