"""A plain read of memory on the engine's threads: the least time in which so many bytes can be looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

CACHE_IF_UNKNOWN = 32 << 20
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def read_loop(size: int, threads: int) -> Callable[[], float]:
    """A function that reads ``size`` bytes once with ``threads`` threads and gives the seconds it took.

    Natively (the kernels' own thread team, huge pages) where the C++ core is built, else with torch.
    """
    try:
        from paceline import _cpu
    except ImportError:
        words = torch.ones(size // 8, dtype=torch.int64)
        return lambda: timed(words.sum)
    team = _cpu.Team(threads)
    buffer = _cpu.StreamBuffer(size)
    return lambda: timed(lambda: buffer.read(team))


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def last_level_cache(caches: Path = _CACHES) -> int:
    """Bytes of the largest cache that a core reads through; ``CACHE_IF_UNKNOWN`` where the system does not say."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = []
    for file in caches.glob("index*/size"):
        text = file.read_text().strip()
        if text and text[-1] in units and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * units[text[-1]])
    return max(sizes, default=CACHE_IF_UNKNOWN)
