"""Hands finished texts to the store on a thread: the event loop never waits for a disk."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from typing import NamedTuple

from paceline.engine.messages import SequenceDrafts
from paceline.learning.store import TextStore

logger = logging.getLogger("paceline.server")

MOST_WAITING = 256  # texts; where the disk is slower than the traffic, more are not kept


class _Text(NamedTuple):
    prompt: Sequence[int]
    output: Sequence[int]
    drafts: SequenceDrafts


class Recorder:
    """``failed``: why nothing is recorded any more, once writing has failed; serving goes on. ``missed``: texts that
    were not kept because the disk was too slow or had failed."""

    def __init__(self, store: TextStore) -> None:
        self.store = store
        self.failed: str | None = None
        self.missed = 0
        self._queue: queue.Queue[_Text | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def add(self, prompt: Sequence[int], output: Sequence[int], drafts: SequenceDrafts | None) -> None:
        """Queues a text; never waits and never fails."""
        if not output:
            return
        try:
            if self.failed is None:
                self._queue.put_nowait(_Text(prompt, output, drafts or SequenceDrafts()))
                return
        except queue.Full:
            pass
        self.missed += 1

    def flush(self) -> None:
        """Waits until all that was added is written."""
        self._queue.join()

    def close(self) -> None:
        """Writes what waits, and ends."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (text := self._queue.get()) is not None:
            try:
                if self.failed is None:
                    drafts = text.drafts
                    self.store.add(text.prompt, text.output, drafts.steps, drafts.drafted, drafts.accepted)
                else:
                    self.missed += 1
            except Exception as error:
                self._fail(error)
            finally:
                self._queue.task_done()
        try:
            self.store.close()
        except OSError as error:
            self._fail(error)
        self._queue.task_done()

    def _fail(self, error: Exception) -> None:
        self.missed += 1
        self.failed = str(error)
        logger.error("texts are not recorded any more, until the server is started again: %s", error)
