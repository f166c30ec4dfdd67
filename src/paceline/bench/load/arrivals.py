"""When requests of an open loop arrive: offsets in seconds from the start of a point."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import Literal

Process = Literal["poisson", "constant"]


def arrivals(
    rate: float, process: Process, seed: str, *, duration: float | None = None, requests: int | None = None
) -> list[float]:
    """Arrivals at ``rate`` a second: those before ``duration`` seconds, at most ``requests``; one of both must be
    given. The same for the same arguments.

    Poisson: gaps are exponential with mean 1 / rate, the first one too, so that no request is certain at time zero.
    """
    if duration is None and requests is None:
        raise ValueError("arrivals need a duration or a number of requests")
    times: list[float] = []
    for time in _endless(rate, process, seed):
        if (duration is not None and time >= duration) or (requests is not None and len(times) >= requests):
            return times
        times.append(time)
    raise AssertionError("arrivals do not end")


def _endless(rate: float, process: Process, seed: str) -> Iterator[float]:
    if process == "constant":
        yield from (number / rate for number in count())
    rng = random.Random(seed)
    time = 0.0
    while True:
        time += rng.expovariate(rate)
        yield time
