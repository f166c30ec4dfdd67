"""What an operation needs of a machine, and the least time in which a machine can do that (the roofline model).

Source: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
architectures", Communications of the ACM 52 (4), 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Work:
    """``nbytes``: read from memory. ``ops``: multiplications and additions, each counted as one, by the arithmetic in
    which they are done (``int8``, ``fp8``, ``bf16``, ``f32``)."""

    nbytes: float = 0.0
    ops: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_ops(self) -> float:
        return sum(self.ops.values())

    @property
    def intensity(self) -> float:
        """Operations for each byte; infinite where nothing is read."""
        return self.total_ops / self.nbytes if self.nbytes else float("inf")

    def __add__(self, other: Work) -> Work:
        names = {**self.ops, **other.ops}
        ops = {name: self.ops.get(name, 0.0) + other.ops.get(name, 0.0) for name in names}
        return Work(self.nbytes + other.nbytes, ops)

    def __mul__(self, times: float) -> Work:
        return Work(self.nbytes * times, {name: count * times for name, count in self.ops.items()})


@dataclass(frozen=True, slots=True)
class Ceilings:
    """``bandwidth``: bytes that are read from memory in a second. ``rates``: operations in a second, by arithmetic."""

    bandwidth: float
    rates: Mapping[str, float]

    def memory_seconds(self, work: Work) -> float:
        return work.nbytes / self.bandwidth

    def arithmetic_seconds(self, work: Work) -> float:
        """Kinds of arithmetic share the same units, so their times add up."""
        return sum(count / self.rates[name] for name, count in work.ops.items())

    def bound(self, work: Work) -> float:
        """The least seconds for ``work``: reading and calculating go on at the same time."""
        return max(self.memory_seconds(work), self.arithmetic_seconds(work))

    def binding(self, work: Work) -> str:
        """Which ceiling ``work`` meets first: ``memory`` or ``arithmetic``."""
        return "memory" if self.memory_seconds(work) >= self.arithmetic_seconds(work) else "arithmetic"
