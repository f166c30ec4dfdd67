"""How far a measurement is, on standard error.

Drawn only when something is said or done: a bar that animated itself would take time from what is being measured, in
this process and on these cores. Nothing runs in between.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

REDRAW_SECONDS = 0.2  # a bar that is advanced more often than this is not drawn each time


class Progress(Protocol):
    """What a measurement tells about itself. ``say`` alone also serves functions that take a ``Callable[[str], None]``.
    Stages follow each other: a new one ends the one before."""

    def start(self, total: int, what: str) -> None:
        """A stage of ``total`` pieces of work begins; ``what`` names it in a few words."""

    def advance(self, count: int = 1) -> None:
        """``count`` more pieces of the stage are done."""

    def say(self, text: str) -> None:
        """A line that stays."""


class Silent:
    """Says nothing: for tests, and for functions that are called as a library."""

    def start(self, total: int, what: str) -> None: ...

    def advance(self, count: int = 1) -> None: ...

    def say(self, text: str) -> None: ...


class Lines:
    """For logs: a line when a stage begins, and what is said."""

    def start(self, total: int, what: str) -> None:
        self.say(f"{what} ({total})" if total > 1 else what)

    def advance(self, count: int = 1) -> None: ...

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Bars:
    """For a terminal: a bar for the present stage below all that was said. Use ``shown``, which also ends it."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
        self._bars = RichProgress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left", style="dim"),
            console=Console(stderr=True, highlight=False),
            auto_refresh=False,
            transient=True,
            # Redirected, what is printed to standard output would end on standard error, where the bar is.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._drawn = 0.0

    def start(self, total: int, what: str) -> None:
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._bars.add_task(what, total=total)
        self._draw()

    def advance(self, count: int = 1) -> None:
        for task in self._bars.tasks:
            self._bars.advance(task.id, count)
            if time.monotonic() - self._drawn >= REDRAW_SECONDS or task.finished:
                self._draw()

    def say(self, text: str) -> None:
        self._bars.console.print(Text(text))
        self._draw()

    def _draw(self) -> None:
        self._bars.refresh()
        self._drawn = time.monotonic()

    def open(self) -> None:
        self._bars.start()

    def close(self) -> None:
        self._bars.stop()


@contextmanager
def shown() -> Iterator[Progress]:
    """Progress for a person where standard error is a terminal, for a log elsewhere."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    bars = Bars()
    bars.open()
    try:
        yield bars
    finally:
        bars.close()
