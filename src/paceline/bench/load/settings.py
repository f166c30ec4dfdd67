"""What a run is made of besides targets and texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from paceline.bench.load.arrivals import Process
from paceline.bench.load.metrics import Goodput

Api = Literal["auto", "chat", "completions"]
DURATION = 20.0  # seconds of arrivals at a point
LATE_LIMIT = 0.010  # seconds at P99: a client that is later measures itself


@dataclass(frozen=True, slots=True)
class Settings:
    """``duration`` and ``requests`` end the arrivals of a point, whichever comes first. ``late_limit``: seconds by
    which the client's requests, and the timers of its event loop, may be late at P99."""

    repeats: int = 2
    duration: float | None = DURATION
    requests: int | None = None
    process: Process = "poisson"
    timeout: float = 120.0
    drain: float = 60.0
    warm_ups: int = 3
    until_saturated: bool = True
    late_limit: float = LATE_LIMIT
    goodput: Goodput = field(default_factory=lambda: Goodput(ttft=0.5, tpot=0.05))
    dollars_per_hour: float | None = None
    temperature: float = 0.0
    ignore_eos: bool = False
    seed: int = 0
