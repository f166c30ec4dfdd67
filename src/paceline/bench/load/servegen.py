"""ServeGen's traces: not requests, but what each client's requests are drawn from.

``NAME_trace.csv``: ``client, start [s], rate, cv, pattern, shape, scale`` for windows of ten minutes; gaps between a
client's requests are Gamma or Weibull distributed. ``NAME_dataset.jsonl`` beside it: histograms of input and output
lengths for each client and window of some hours.
"""

from __future__ import annotations

import ast
import bisect
import csv
import gzip
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from paceline.bench.prompts import DataError
from paceline.bench.speculation.workloads import rows

WINDOW = 600.0  # seconds of a row of the trace
PATTERNS = ("Gamma", "Weibull")
Drawn = tuple[float, int, int]  # seconds, tokens in, tokens out


def is_servegen(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith("_trace.csv")


def dataset_of(path: Path) -> Path:
    """The file of lengths that belongs to a trace. Raises ``DataError`` when it is not there."""
    stem = path.name.removesuffix(".gz").removesuffix("_trace.csv")
    for name in (f"{stem}_dataset.jsonl.gz", f"{stem}_dataset.jsonl"):
        if (path.parent / name).is_file():
            return path.parent / name
    raise DataError(f"{path} needs {stem}_dataset.jsonl[.gz] beside it: the lengths of its requests")


@dataclass(frozen=True, slots=True)
class _Rate:
    client: int
    start: float
    rate: float
    pattern: str
    shape: float


class _Lengths:
    """Draws from a histogram ``{tokens: share}``."""

    def __init__(self, histogram: Mapping[int, float]) -> None:
        self.tokens = list(histogram)
        self.sums = list(accumulate(histogram.values()))

    def draw(self, rng: random.Random) -> int:
        index = bisect.bisect(self.sums, rng.random() * self.sums[-1])
        return max(1, int(self.tokens[min(index, len(self.tokens) - 1)]))


def servegen_requests(path: Path, start: float, seconds: float | None, limit: int | None, seed: int) -> Iterator[Drawn]:
    """Requests of all clients from ``start`` to ``start + seconds`` (None: enough windows for ``limit`` requests).

    A client's gaps have the shape of its window's pattern and the mean 1 / rate, so that a window holds as many
    requests as were recorded; the fitted scale alone would make bursts of the same number of requests shorter.
    """
    if seconds is None and limit is None:
        raise DataError(f"{path} is made of distributions and has no end: give --duration or --limit")
    lengths = _read_lengths(dataset_of(path))
    made = 0
    for window in _windows(path):
        begin = window[0].start
        if begin + WINDOW <= start:
            continue
        if seconds is not None and begin >= start + seconds:
            return
        if limit is not None and made >= limit:
            return
        drawn = sorted(request for rate in window for request in _client(rate, lengths, seed))
        drawn = [request for request in drawn if request[0] >= start]
        made += len(drawn)
        yield from drawn


def _client(rate: _Rate, lengths: Mapping[int, Sequence[tuple[float, _Lengths, _Lengths]]], seed: int) -> list[Drawn]:
    """The requests of one client in one window."""
    if rate.rate <= 0:
        return []
    rng = random.Random(f"{seed} {rate.client} {rate.start}")
    inputs, outputs = _at(lengths.get(rate.client, ()), rate.start)
    if inputs is None or outputs is None:
        return []  # a client whose lengths are not in the data set
    gap = _gap(rate)
    found: list[Drawn] = []
    at = rate.start + gap(rng) * rng.random()  # the window begins somewhere between two requests
    while at < rate.start + WINDOW:
        found.append((at, inputs.draw(rng), outputs.draw(rng)))
        at += gap(rng)
    return found


def _gap(rate: _Rate) -> Callable[[random.Random], float]:
    mean, shape = 1 / rate.rate, rate.shape
    if rate.pattern == "Gamma":
        return lambda rng: rng.gammavariate(shape, mean / shape)
    scale = mean / math.gamma(1 + 1 / shape)
    return lambda rng: rng.weibullvariate(scale, shape)


def _at(windows: Sequence[tuple[float, _Lengths, _Lengths]], start: float) -> tuple[_Lengths | None, _Lengths | None]:
    """Lengths of the last window that began before; of the first one where none did."""
    earlier = [window for window in windows if window[0] <= start]
    chosen = earlier[-1] if earlier else (windows[0] if windows else None)
    return (None, None) if chosen is None else (chosen[1], chosen[2])


def _windows(path: Path) -> Iterator[list[_Rate]]:
    """The rows of the trace, ten minutes at a time, in the order of time."""
    by_start: dict[float, list[_Rate]] = {}
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                client, begin, rate, _, pattern, shape, _ = row
                entry = _Rate(int(client), float(begin), float(rate), pattern, float(shape))
            except ValueError as error:
                raise DataError(f"{path}, line {number} is no row of a ServeGen trace: {error}") from error
            if entry.rate > 0 and entry.pattern not in PATTERNS:
                raise DataError(f"{path}, line {number}: pattern {pattern!r}; {' and '.join(PATTERNS)} are known")
            by_start.setdefault(entry.start, []).append(entry)
    for start in sorted(by_start):
        yield by_start[start]


def _read_lengths(path: Path) -> dict[int, list[tuple[float, _Lengths, _Lengths]]]:
    """(window's start, inputs, outputs) by client; windows without requests are left out."""
    found: dict[int, list[tuple[float, _Lengths, _Lengths]]] = {}
    for number, row in enumerate(rows(path), 1):
        try:
            inputs, outputs = ast.literal_eval(row["input_tokens"]), ast.literal_eval(row["output_tokens"])
            if inputs and outputs:
                window = (float(row["window_start_s"]), _Lengths(inputs), _Lengths(outputs))
                found.setdefault(int(row["client"]), []).append(window)
        except (KeyError, ValueError, SyntaxError, TypeError) as error:
            raise DataError(f"{path}, line {number} is no histogram of lengths: {error!r}") from error
    for windows in found.values():
        windows.sort(key=lambda window: window[0])
    return found
