"""What a training says while it runs, and the figures at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

BAR_WIDTH = 32
LINE_SECONDS = 30.0  # between lines of progress where there is no terminal


class Reporter:
    """Hears what a training does. This one says nothing; an exception from it ends the training as Ctrl-C would."""

    def stage(self, name: str, resumed: bool = False) -> None:
        """A stage begins; ``resumed``: it was complete already, and is not repeated."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` parts of the stage are done."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def figures(self, report: Mapping[str, Any]) -> None:
        """The end: what ``training.json`` holds."""

    def close(self) -> None:
        """Nothing more will come."""


class TerminalReporter(Reporter):
    """Bars on a terminal; lines from time to time elsewhere, as in a log."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._name = ""
        self._said = 0.0
        self._bars: Progress | None = None
        self._task: Any = None

    def stage(self, name: str, resumed: bool = False) -> None:
        self.close()
        self._name, self._said = name, 0.0
        if resumed:
            self.console.print(f"{name}: complete already", highlight=False, soft_wrap=True)
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            )  # fmt: skip
            self._bars = Progress(*columns, console=self.console)
            self._task = self._bars.add_task(name, total=None, note="")
            self._bars.start()
        else:
            self.console.print(f"{name} ...", highlight=False, soft_wrap=True)

    def progress(self, done: int, total: int, note: str = "") -> None:
        if self._bars is not None:
            self._bars.update(self._task, completed=done, total=total, note=note)
        elif done >= total or time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            clock = time.strftime("%H:%M:%S")
            self.console.print(
                f"{clock} {self._name}: {done} of {total} {note}".rstrip(), highlight=False, soft_wrap=True
            )

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def figures(self, report: Mapping[str, Any]) -> None:
        self.close()
        for line in figure_lines(report):
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        if (table := _answers(report)) is not None:
            self.console.print(table)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """``share`` of the width in blocks, in eighths."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return ("█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]).ljust(width)


def figure_lines(report: Mapping[str, Any]) -> list[str]:
    """Held-out loss in the course of the training and accepted tokens by position, as bars."""
    lines: list[str] = []
    history = (report.get("adapter") or {}).get("history") or []
    if history:
        highest = max(entry["held_out_loss"] for entry in history)
        lines.append("held-out loss of the answers, nats a token")
        lines += [_bar_line(f"step {e['step']}", e["held_out_loss"], highest) for e in history]
    drafts = report.get("measured", {}).get("drafts")
    if drafts:
        lines.append(f"tokens a step with the speculator: {drafts['acceptance_length']:.2f} (1.00 without)")
        lines.append("share of drafts of which a position was accepted")
        shares: Sequence[float] = drafts["accepted_per_position"]
        lines += [_bar_line(f"position {k}", share, 1.0) for k, share in enumerate(shares, 1)]
    return lines


def _bar_line(label: str, value: float, highest: float) -> str:
    return f"  {label:<12} {bar(value / highest if highest else 0.0)} {value:.3f}"


def _answers(report: Mapping[str, Any]) -> Table | None:
    measured = report.get("measured", {})
    columns = [(name, measured[name]) for name in ("before", "after") if measured.get(name)]
    if not columns:
        return None
    table = Table("held-out answers", *(name for name, _ in columns))
    for key, label, form in ANSWER_FIGURES:
        table.add_row(label, *(form.format(values[key]) for _, values in columns))
    return table


#: Key, words and form of what is measured of held-out answers.
ANSWER_FIGURES = (
    ("exact_match", "exact match", "{:.1%}"),
    ("loss", "loss, nats a token", "{:.3f}"),
    ("perplexity", "perplexity", "{:.2f}"),
    ("output_tokens", "output tokens", "{:.1f}"),
)
