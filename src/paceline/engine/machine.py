"""What this process may use of the machine: memory and cores, control groups (containers) respected."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that can be had without swapping: the system's or the control group's, whichever is less."""
    available = int(psutil.virtual_memory().available)
    room = cgroup_room(cgroup)
    return available if room is None else max(0, min(available, room))


def cgroup_room(cgroup: Path = _CGROUP) -> int | None:
    """Bytes below the control group's memory limit, its reclaimable file cache counted as free; None: no limit."""
    for limit_file, usage_file, stat_key, folder in (
        ("memory.max", "memory.current", "inactive_file", cgroup),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", cgroup / "memory"),
    ):
        limit, usage = _number(folder / limit_file), _number(folder / usage_file)
        if limit is None or usage is None or limit >= 2**60:
            continue
        return limit - usage + _stat(folder / "memory.stat", stat_key)
    return None


def give_back_memory() -> None:
    """Freed memory that the allocator keeps goes back to the system, where the C library offers that (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores worth a compute thread each: physical ones that this process may run on, within the group's quota."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(logical, psutil.cpu_count(logical=False) or logical)
    quota = cpu_quota(cgroup)
    return cores if quota is None else max(1, min(cores, int(quota + 0.5)))


def cpu_quota(cgroup: Path = _CGROUP) -> float | None:
    """Cores' worth of time that the control group grants; None: no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        quota_us, period_us = (_number(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _stat(path: Path, key: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [key]), 0)
