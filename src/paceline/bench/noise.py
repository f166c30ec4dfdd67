"""Is the machine quiet enough to measure on?

Between measurements, with every engine suspended, a calibration loop does a fixed amount of arithmetic on one core, and
reads a fixed amount of memory. Both times should always be the same, and the other cores should be idle; what differs
is noise from outside. Memory is read because engines live by its speed, and a neighbour on the same host can take that
without taking a core.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paceline.bench.statistics import Summary, summarize

SPREAD_LIMIT = 0.05  # interquartile range of the calibration times / median
MEMORY_SPREAD_LIMIT = 0.10  # the same for the times of reading memory
FOREIGN_LIMIT = 0.10  # cores that other processes kept busy while only the calibration loop should run
CALIBRATION_ROUNDS = 150_000
MEMORY_BYTES = 1 << 26  # more than any cache holds


@dataclass(frozen=True, slots=True)
class NoiseReading:
    """One run of the calibration loop."""

    seconds: float  # wall time of the fixed arithmetic
    memory_seconds: float  # wall time of reading MEMORY_BYTES
    foreign_cores: float  # cores busy with something else meanwhile, stolen time included


def busy_seconds(stat: str | None = None) -> float:
    """CPU seconds that all cores spent not idle since boot (stolen time included), from ``/proc/stat``.

    0.0 on systems without it.
    """
    if stat is None:
        try:
            stat = Path("/proc/stat").read_text()
        except OSError:
            return 0.0
    fields = [int(field) for field in stat.splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@cache
def _memory() -> npt.NDArray[np.int64]:
    return np.ones(MEMORY_BYTES // 8, dtype=np.int64)


def read_noise(window: float = 0.15) -> NoiseReading:
    """Runs the calibration loops for at least ``window`` seconds; gives the times of their fastest passes.

    The fastest pass, because a single interruption is not what slows a measurement of seconds; the load of others over
    the whole window is counted apart.
    """
    memory = _memory()
    start, own_start, busy_start = time.perf_counter(), time.process_time(), busy_seconds()
    fastest = fastest_read = float("inf")
    while time.perf_counter() - start < window:
        began = time.perf_counter()
        total = 0
        for i in range(CALIBRATION_ROUNDS):
            total += i & 7
        middle = time.perf_counter()
        memory.sum()
        fastest = min(fastest, middle - began)
        fastest_read = min(fastest_read, time.perf_counter() - middle)
    wall = time.perf_counter() - start
    own = time.process_time() - own_start
    foreign = max(0.0, busy_seconds() - busy_start - own) / wall
    return NoiseReading(fastest, fastest_read, foreign)


@dataclass(slots=True)
class NoiseGuard:
    """Collects readings over a run and judges them."""

    readings: list[NoiseReading] = field(default_factory=list)

    def sample(self) -> None:
        """Takes one reading (about 0.15 s); call it between measurements."""
        self.readings.append(read_noise())

    @property
    def calibration(self) -> Summary:
        return summarize([reading.seconds for reading in self.readings])

    @property
    def memory(self) -> Summary:
        return summarize([reading.memory_seconds for reading in self.readings])

    @property
    def foreign_cores(self) -> Summary:
        return summarize([reading.foreign_cores for reading in self.readings])

    def verdict(self) -> tuple[bool, str]:
        """Whether the machine was quiet, and a sentence with the numbers."""
        if not self.readings:
            return True, "no calibration was taken"
        calibration, memory, foreign = self.calibration, self.memory, self.foreign_cores
        quiet = (
            calibration.spread <= SPREAD_LIMIT
            and memory.spread <= MEMORY_SPREAD_LIMIT
            and foreign.median <= FOREIGN_LIMIT
        )
        numbers = (
            f"calibration loop {calibration.median * 1e3:.2f} ms, spread {calibration.spread:.1%} "
            f"(limit {SPREAD_LIMIT:.0%}); reading memory {MEMORY_BYTES / memory.median / 1e9:.1f} GB/s on one core, "
            f"spread {memory.spread:.1%} (limit {MEMORY_SPREAD_LIMIT:.0%}); others kept {foreign.median:.2f} cores "
            f"busy (limit {FOREIGN_LIMIT:.2f}, third quartile {foreign.q3:.2f}); {len(self.readings)} readings"
        )
        if quiet:
            return True, f"quiet machine: {numbers}"
        return False, f"NOISY MACHINE, do not quote these numbers: {numbers}"
