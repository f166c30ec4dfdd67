"""A server or worker under test as a whole process tree: started, suspended, weighed and stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

MEGABYTE = 1e6
STOP_SECONDS = 20.0
SUSPEND_SECONDS = 5.0


_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """In the new process: be killed when the benchmark is, so that no suspended engine keeps its memory for ever."""
    assert _libc is not None
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


END_WITH_PARENT = _end_with_parent if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process tree in MB (10^6 bytes).

    ``pss`` counts a page shared by n processes as 1/n in each: the true cost of the tree, except for pages shared with
    other programs. ``rss`` counts it n times.
    """

    pss: float
    rss: float


class ProcessTree:
    """One started command and all its descendants, in a session of their own, output in a log file."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, pipes: bool = False
    ) -> None:
        self.log: IO[bytes] = tempfile.NamedTemporaryFile(prefix="paceline-bench-", suffix=".log")  # noqa: SIM115
        self.started = time.perf_counter()
        pipe = subprocess.PIPE if pipes else None
        self.process = subprocess.Popen(
            list(command),
            env={**os.environ, **(environment or {})},
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or self.log,
            stderr=self.log,
            start_new_session=True,
            preexec_fn=END_WITH_PARENT,
        )

    def members(self) -> list[psutil.Process]:
        """The process and its living descendants."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def suspend(self) -> None:
        """Stops all members where they are, parents first, so that none is replaced or declared dead meanwhile.

        Returns when all of them stand still, those that were started meanwhile too.
        """
        deadline = time.monotonic() + SUSPEND_SECONDS
        while moving := [member for member in self.members() if not _stands_still(member)]:
            for member in moving:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.suspend()
            if time.monotonic() > deadline:
                raise TimeoutError(f"could not suspend {[member.pid for member in moving]}")
            time.sleep(0.001)

    def resume(self) -> None:
        """Lets all members go on, children first, so that a parent finds them answering."""
        for member in reversed(self.members()):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()

    def memory(self) -> Memory:
        """Resident memory of all members now."""
        pss = rss = 0
        for member in self.members():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                info = member.memory_full_info()
                rss += info.rss
                pss += getattr(info, "pss", info.rss)
        return Memory(pss / MEGABYTE, rss / MEGABYTE)

    def tail(self, characters: int = 1500) -> str:
        """The end of what it printed."""
        path = Path(self.log.name)
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    def stop(self) -> None:
        """Asks the tree to end (SIGTERM), then kills what is left."""
        self.resume()
        members = self.members()
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.log.close()


def _stands_still(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class BusyLoop:
    """A process that keeps one core busy while the context lasts (the last core, so that it cannot wander)."""

    def __enter__(self) -> BusyLoop:
        code = (
            "import os\n"
            "if hasattr(os, 'sched_setaffinity'):\n"
            "    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
            "while True: pass"
        )
        self._process = subprocess.Popen([sys.executable, "-c", code], preexec_fn=END_WITH_PARENT)
        time.sleep(0.3)
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
