"""The base model's speculator, exchanged between two steps.

It is read and laid out on a thread of its own while steps go on; the step that follows drafts with it. Text does not
change with it: drafts are verified, whoever proposes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from paceline.engine.messages import SpeculatorInfo, SpeculatorReply
from paceline.errors import PacelineError

logger = logging.getLogger(__name__)


class Exchangeable(Protocol):
    """Who drafts for the base model. ``folder``: of the speculator at the start, None: there was none."""

    folder: Path | None

    @property
    def open(self) -> Callable[[Path], Any]:
        """Reads a folder; may be called on another thread. Raises ``ModelLoadError``."""

    def replace_base(self, speculator: Any) -> None:
        """The base model drafts with ``speculator`` (None: with none) from now on."""


class BaseSpeculator:
    """``drafting`` None: nobody would use a speculator here, and all are refused. ``executor``: reads; None: a thread
    that is made when it is needed."""

    def __init__(self, drafting: Exchangeable | None) -> None:
        self.executor: Executor | None = None
        self._drafting = drafting
        self._reading: Future[Any] | None = None
        self._queued: list[str | None] = []
        self._refused: list[SpeculatorReply] = []

    @property
    def busy(self) -> bool:
        """Whether one is being read, or there is something to tell."""
        return self._reading is not None or bool(self._refused)

    def use(self, folder: str | None) -> None:
        """Begins to read the speculator in ``folder``; None: the one of the start. Each call gets one answer from
        ``poll``, in order."""
        if self._drafting is None:
            error = "the drafter turbo is off here (--speculate), so there is nobody to use a speculator"
            self._refused.append(SpeculatorReply(error=error))
            return
        self._queued.append(folder)
        self._read_next()

    def poll(self) -> list[SpeculatorReply]:
        """What was read since the last call is in use now, or the reason why not."""
        replies, self._refused = self._refused, []
        if self._reading is not None and self._reading.done():
            future, self._reading = self._reading, None
            replies.append(self._take(future))
            self._read_next()
        return replies

    def wait(self, timeout_s: float) -> None:
        """Until the read ends, at most ``timeout_s``."""
        if self._reading is not None:
            wait([self._reading], timeout_s)

    def _read_next(self) -> None:
        if self._reading is not None or not self._queued:
            return
        if self.executor is None:
            self.executor = ThreadPoolExecutor(1, "speculator-reader")
        self._reading = self.executor.submit(self._read, self._queued.pop(0))

    def _read(self, folder: str | None) -> Any:
        """On the reader's thread."""
        assert self._drafting is not None
        path = self._drafting.folder if folder is None else Path(folder)
        return None if path is None else self._drafting.open(path)

    def _take(self, future: Future[Any]) -> SpeculatorReply:
        assert self._drafting is not None
        try:
            speculator = future.result()
        except Exception as error:
            if not isinstance(error, PacelineError):
                logger.error("a speculator cannot be read", exc_info=error)
            return SpeculatorReply(error=str(error) or type(error).__name__)
        self._drafting.replace_base(speculator)
        if speculator is None:
            return SpeculatorReply()
        info = SpeculatorInfo(
            positions=speculator.positions, vocab_size=speculator.vocab_size, nbytes=speculator.nbytes
        )
        return SpeculatorReply(info=info)
