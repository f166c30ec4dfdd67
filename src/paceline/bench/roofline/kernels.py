"""What single operations cost, by rows and context: ``paceline bench kernel``.

Every operation is a program of its own over the model's real matrices, all layers of a kind in turn, or over a cache of
the model's shape. Before each timed run the caches are filled with something else, as they are in a step, where all
other weights pass between two uses of one. A round measures the ceilings and every operation once, in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from paceline.bench.noise import NoiseGuard
from paceline.bench.progress import Progress, Silent
from paceline.bench.roofline.ceilings import CeilingMeter
from paceline.bench.roofline.reading import timed
from paceline.bench.roofline.work import Work
from paceline.bench.statistics import quantile

REPEATS = 3  # runs of an operation in a round; the median counts
Shape = Literal["product", "decode", "verify", "prefill"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """An operation with its number of rows. ``rows``: of all sequences together; ``context``: tokens before them, None
    for products. ``work``: of one of its ``count`` layers."""

    operation: str
    shape: Shape
    rows: int
    context: int | None
    work: Work
    count: int
    run: Callable[[], object]

    @property
    def name(self) -> str:
        behind = "" if self.context is None else f" behind {self.context}"
        return f"{self.operation}, {self.rows} rows{behind}"


@dataclass(slots=True)
class KernelBench:
    """Kernels of one model on one backend. ``values``: seconds of one layer's operation by kernel, one value (a median)
    for each round. ``skipped``: what was asked for and not measured, and why."""

    backend: str
    threads: int
    kernels: list[Kernel]
    meter: CeilingMeter
    evict: Callable[[], float]
    call: Callable[[], object]  # a program of nothing: what a call costs by itself
    skipped: list[str]
    guard: NoiseGuard = field(default_factory=NoiseGuard)
    values: dict[str, list[float]] = field(default_factory=dict)
    calls: list[float] = field(default_factory=list)

    def run(self, rounds: int, progress: Progress | None = None) -> None:
        """Measures ``rounds`` rounds after one that warms up."""
        progress = progress or Silent()
        progress.start((rounds + 1) * len(self.kernels), f"{rounds} rounds of {len(self.kernels)} operations")
        for number in range(rounds + 1):
            if number == 1:
                self.values.clear()
                self.calls.clear()
                self.meter.clear()
            self.meter.sample()
            self.guard.sample()
            self.calls.append(self._seconds(self.call))
            for kernel in self.kernels:
                self.values.setdefault(kernel.name, []).append(self._seconds(kernel.run) / kernel.count)
                progress.advance()

    def _seconds(self, run: Callable[[], object]) -> float:
        times = []
        for _ in range(REPEATS):
            self.evict()
            self.call()  # within a step the threads are awake
            times.append(timed(run))
        return quantile(times, 0.5)
