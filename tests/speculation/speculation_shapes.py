"""Cost curves of real machines, for the tests of what is decided by them."""

from __future__ import annotations

import itertools

#: SmolLM2-135M on two CPU cores: (rows, seconds).
CPU_POINTS = [(1, 4.18e-3), (2, 4.51e-3), (4, 5.21e-3), (8, 7.62e-3), (16, 13.4e-3), (32, 23e-3), (512, 311e-3)]
#: An 8B model on an H200: memory-bound up to some 150 rows.
H200_POINTS = [(1, 3.3e-3), (150, 3.3e-3), (512, 3.3e-3 + 362 * 22e-6)]


def h200_seconds(rows: int) -> float:
    return 3.3e-3 + max(0, rows - 150) * 22e-6


def cpu_seconds(rows: int) -> float:
    for (r0, s0), (r1, s1) in itertools.pairwise(CPU_POINTS):
        if rows <= r1:
            return s0 + (s1 - s0) * (rows - r0) / (r1 - r0)
    return 23e-3 + 0.6e-3 * (rows - 32)
