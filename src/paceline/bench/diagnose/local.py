"""The server's process, where it runs on this machine: what it and others take of processors and memory."""

from __future__ import annotations

import contextlib
import os
import socket
import time

import psutil

from paceline.bench.diagnose.observations import Local
from paceline.bench.noise import busy_seconds
from paceline.engine.machine import usable_cores


def is_here(host: str) -> bool:
    """Whether ``host`` is an address of this machine."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    return bool(found & own) or any(address.startswith("127.") or address == "::1" for address in found)


def listener(port: int) -> psutil.Process | None:
    """The process that listens on ``port``; None where the system does not tell (another user's, a container's)."""
    try:
        sockets = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    pids = [one.pid for one in sockets if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid]
    try:
        return psutil.Process(min(pids)) if pids else None
    except psutil.Error:
        return None


class LocalWatch:
    """Counts processor time between its making and ``stop``."""

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._began = time.perf_counter()
        self._before = self._counters()

    def stop(self) -> Local:
        """What was seen since."""
        seconds = time.perf_counter() - self._began
        server, own, busy = (after - before for after, before in zip(self._counters(), self._before, strict=True))
        memory = psutil.virtual_memory()
        return Local(
            cores=usable_cores(),
            server_cores=max(0.0, server) / seconds,
            other_cores=max(0.0, busy - server - own) / seconds,
            free_bytes=memory.available,
            total_bytes=memory.total,
        )

    def _counters(self) -> tuple[float, float, float]:
        """CPU seconds of the server's processes, of this one, and of all."""
        return self._server_seconds(), sum(os.times()[:2]), busy_seconds()

    def _server_seconds(self) -> float:
        total = 0.0
        with contextlib.suppress(psutil.Error):
            for process in (self._server, *self._server.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    total += times.user + times.system
        return total


def watch(host: str, port: int) -> LocalWatch | None:
    """Begins to count, when the server is a process of this machine that can be looked at."""
    process = listener(port) if is_here(host) else None
    return None if process is None else LocalWatch(process)
