"""What of a plot's values an axis can show, where, under which names, and in which colours."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from paceline.bench.output.cells import cell_text
from paceline.bench.sections import Plot, Series

COLOURS = 10  # of the page's style, c0 to c9

Value = float | None


@dataclass(frozen=True, slots=True)
class Points:
    """Of a series, by index: None where there is no value, or none that the axis can show. ``tips``: shown under the
    pointer."""

    x: list[Value]
    y: list[Value]
    low: list[Value]
    high: list[Value]
    tips: list[str]


def points_of(plot: Plot) -> tuple[list[Points], dict[str, float]]:
    """By series, and the names of the axis with their places. Raises ``ValueError`` when a series' lists differ in
    length."""
    names = _categories(plot)
    return [_points(plot, series, names) for series in plot.series], names


def left_out(plot: Plot) -> int:
    """How many values are there that a logarithmic axis cannot show."""
    return sum(
        (plot.log_y and y <= 0) or (plot.log_x and not isinstance(x, str) and x <= 0)
        for series in plot.series
        for x, y in zip(list[str | float](series.x), series.y, strict=True)
        if _value(y) is not None
    )


def colours_of(plots: Sequence[Plot]) -> list[list[str]]:
    """By plot and series; a limit is drawn like text. A name keeps its colour from plot to plot, unless another series
    of a plot has it already."""
    known: dict[str, int] = {}
    return [_colours(plot, known) for plot in plots]


def _colours(plot: Plot, known: dict[str, int]) -> list[str]:
    """``known``: of the names so far; new ones are added, with the first colours that are free in this plot."""
    names = [series.name for series in plot.series if not series.limit]
    used = Counter[int]()
    own: dict[int, int] = {}
    for index, name in enumerate(names):
        if name in known and not used[known[name]]:
            own[index] = known[name]
            used[own[index]] += 1
    for index in (index for index in range(len(names)) if index not in own):
        own[index] = min(range(COLOURS), key=lambda colour: used[colour])
        used[own[index]] += 1
        known.setdefault(names[index], own[index])
    coloured = iter(own[index] for index in range(len(names)))
    return ["var(--ink)" if series.limit else f"var(--c{next(coloured)})" for series in plot.series]


def shown(text: str, width: int) -> str:
    """Text for plotly, which reads markup, formulas ($x$) and templates (%{x}): as it is, in lines of at most ``width``
    characters."""
    lines = textwrap.wrap(text, width)
    return "<br>".join(escape(line, quote=False).replace("$", "&#36;").replace("%", "&#37;") for line in lines)


def _value(value: Value, *, log: bool = False) -> Value:
    """None for what is not there, not finite, or has no place on a logarithmic axis."""
    return None if value is None or not math.isfinite(value) or (log and value <= 0) else float(value)


def _values(values: Sequence[Value] | None, count: int, *, log: bool) -> list[Value]:
    return [None] * count if values is None else [_value(value, log=log) for value in values]


def _name(x: str | Value) -> str:
    return x if isinstance(x, str) else cell_text(None) if x is None else f"{x:,g}"


def _categories(plot: Plot) -> dict[str, float]:
    """Names and their places on the axis, in the order in which they come; numbers below bars in their own. Empty when
    the axis is one of numbers."""
    own: list[str | float] = [x for series in plot.series for x in series.x]
    if not any(isinstance(x, str) for x in own):
        if plot.kind != "bar":
            return {}
        own = sorted({x for x in own if not isinstance(x, str) and _value(x) is not None})
    return {name: float(place) for place, name in enumerate(dict.fromkeys(map(_name, own)))}


def _points(plot: Plot, series: Series, names: Mapping[str, float]) -> Points:
    if len({len(each) for each in (series.x, series.y, series.low, series.high) if each is not None}) > 1:
        raise ValueError(f"series {series.name!r} of plot {plot.title!r} has lists of different lengths")
    count = len(series.x)
    x = [names.get(_name(at)) if names or isinstance(at, str) else _value(at, log=plot.log_x) for at in series.x]
    y, low, high = (_values(values, count, log=plot.log_y) for values in (series.y, series.low, series.high))
    y = [None if at is None else value for at, value in zip(x, y, strict=True)]
    return Points(x, y, low, high, [_tip(plot, series, index) for index in range(count)])


def _tip(plot: Plot, series: Series, index: int) -> str:
    """Name, place and value with its spread, all with their units as the axes' titles tell them."""
    low, high = (None if ends is None else _value(ends[index]) for ends in (series.low, series.high))
    around = "" if low is None and high is None else f" ({_exact(low)} – {_exact(high)})"
    places = (plot.x_title, _name(series.x[index])), (plot.y_title, _exact(_value(series.y[index])) + around)
    lines = [series.name, *(f"{title}: {text}" if title else text for title, text in places)]
    return "<br>".join(shown(line, 60) for line in lines)


def _exact(value: Value) -> str:
    return cell_text(None) if value is None else f"{value:,.6g}"
