"""Is the machine quiet enough to measure on?

Between measurements, with every engine suspended, a calibration loop does a fixed amount of arithmetic on one core.
Its time should always be the same, and the other cores should be idle; what differs is noise from outside.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from paceline.bench.statistics import Summary, summarize

SPREAD_LIMIT = 0.05  # interquartile range of the calibration times / median
FOREIGN_LIMIT = 0.10  # cores that other processes kept busy while only the calibration loop should run
CALIBRATION_ROUNDS = 150_000


@dataclass(frozen=True, slots=True)
class NoiseReading:
    """One run of the calibration loop."""

    seconds: float  # wall time of the fixed work
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


def read_noise(window: float = 0.15) -> NoiseReading:
    """Runs the calibration loop for at least ``window`` seconds; gives the time of its fastest pass.

    The fastest pass, because a single interruption is not what slows a measurement of seconds; the load of others over
    the whole window is counted apart.
    """
    start, own_start, busy_start = time.perf_counter(), time.process_time(), busy_seconds()
    fastest = float("inf")
    while time.perf_counter() - start < window:
        began = time.perf_counter()
        total = 0
        for i in range(CALIBRATION_ROUNDS):
            total += i & 7
        fastest = min(fastest, time.perf_counter() - began)
    wall = time.perf_counter() - start
    own = time.process_time() - own_start
    foreign = max(0.0, busy_seconds() - busy_start - own) / wall
    return NoiseReading(fastest, foreign)


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
    def foreign_cores(self) -> Summary:
        return summarize([reading.foreign_cores for reading in self.readings])

    def verdict(self) -> tuple[bool, str]:
        """Whether the machine was quiet, and a sentence with the numbers."""
        if not self.readings:
            return True, "no calibration was taken"
        calibration, foreign = self.calibration, self.foreign_cores
        quiet = calibration.spread <= SPREAD_LIMIT and foreign.median <= FOREIGN_LIMIT
        numbers = (
            f"calibration loop {calibration.median * 1e3:.2f} ms, spread {calibration.spread:.1%} "
            f"(limit {SPREAD_LIMIT:.0%}); others kept {foreign.median:.2f} cores busy "
            f"(limit {FOREIGN_LIMIT:.2f}, third quartile {foreign.q3:.2f}); {len(self.readings)} readings"
        )
        if quiet:
            return True, f"quiet machine: {numbers}"
        return False, f"NOISY MACHINE, do not quote these numbers: {numbers}"
