"""What a bench command found, as tables and plots that any output can show.

A command measures and describes its results once, as a ``Report``; ``publish`` shows that in the terminal and writes
it to files. So a number is never formatted in two places, and no output knows a command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: Text is shown as it is; numbers with three significant digits; None as a dash.
Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under ``columns``; units belong in a column's title, in brackets. ``note`` stands below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """A line (or the bars, or the points) of a plot. ``x`` holds numbers, or names of categories. ``low``, ``high``:
    the spread around ``y``, of the same length. A ``limit`` is a bound of the machine or a target, drawn dashed."""

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    limit: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """Units belong in the axes' titles, in brackets."""

    title: str
    x_title: str
    y_title: str
    series: Sequence[Series]
    kind: Literal["line", "bar", "scatter"] = "line"
    log_x: bool = False
    log_y: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Tables and plots about one question. ``text``: paragraphs, without markup."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """``command``: the command line that made it. ``settings``: what the numbers depend on, shown at the top.
    ``data``: every measured value, for the JSON file. ``warnings``: why a number should not be quoted (a noisy machine,
    a late client), shown first."""

    title: str
    command: str
    sections: Sequence[Section]
    settings: Mapping[str, Cell] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
