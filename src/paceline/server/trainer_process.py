"""The process that trains the speculator, kept alive: started again when it ends, later and later."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable

import msgspec

from paceline.learning.settings import TrainerConfig, TrainerReport
from paceline.server.engine_link import describe_exit

logger = logging.getLogger("paceline.server")

MODULE = "paceline.training.learn"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 600.0
_TERMINATE_S = 5.0


class TrainerProcess:
    """``on_report`` is called with each report, on the event loop. ``restarts``: processes that ended by themselves.
    ``first_pause_s``: before a process takes the place of one that ended; doubled while none reports a version."""

    def __init__(
        self,
        config: TrainerConfig,
        on_report: Callable[[TrainerReport], Awaitable[None]],
        *,
        module: str = MODULE,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.restarts = 0
        self._config = config
        self._on_report = on_report
        self._module = module
        self._first_pause_s = self._pause_s = first_pause_s
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begins to supervise, on the running event loop."""
        self._task = asyncio.create_task(self._supervise(), name="trainer-supervisor")

    async def close(self) -> None:
        """Ends the process; what it has done so far is on disk."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _TERMINATE_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _supervise(self) -> None:
        while True:
            try:
                reason = describe_exit(await self._live_once())
            except OSError as error:
                reason = str(error)
            self.restarts += 1
            logger.error("the trainer ended (%s); it goes on in %g s", reason, self._pause_s)
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _live_once(self) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self._module, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(msgspec.json.encode(self._config) + b"\n")  # and stays open: its end is our end
        while line := await process.stdout.readline():
            try:
                report = msgspec.json.decode(line, type=TrainerReport)
            except msgspec.DecodeError:
                logger.warning("trainer: %s", line.decode(errors="replace").rstrip())
                continue
            if report.version is not None:
                self._pause_s = self._first_pause_s
            await self._on_report(report)
        return await process.wait()
