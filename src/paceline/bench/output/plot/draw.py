"""One plot as SVG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from paceline.bench.output.plot import marks
from paceline.bench.output.plot.bars import bar_plot
from paceline.bench.output.plot.frame import Names, frame
from paceline.bench.output.plot.scale import Scale, place_scale, tick_text, value_scale
from paceline.bench.output.plot.svg import element, pixels
from paceline.bench.sections import Plot, Series

COLOURS = 10  # of the page's style, c0 to c9
DASHES = 3  # patterns of limits, d0 to d2


@dataclass(frozen=True, slots=True)
class Drawing:
    """``height`` in pixels. ``left_out``: values that cannot be shown on a logarithmic axis."""

    svg: str
    height: float
    left_out: int


def draw(plot: Plot, classes: Sequence[str], width: float, height: float) -> Drawing:
    """``classes``: of each series' group, with its colour or, for a limit, its dashes. ``width``, ``height``: pixels;
    lying bars take the height that they need. Raises ``ValueError`` when a series' lists differ in length."""
    for series in plot.series:
        _check(plot, series)
    left_out = _left_out(plot)
    y = value_scale(_values(plot), log=plot.log_y, from_zero=plot.kind == "bar" and not plot.log_y)
    if plot.kind == "bar":
        names = category_names(plot.series)
        upright = _all_numbers(plot.series)
        axes, drawn, height = bar_plot(_with_names(plot), names, y, (width, height), upright=upright)
        layers = [[bars for bars, _ in drawn], [values for _, values in drawn]]
    else:
        axes, shown = _axes_and_marks(plot, y, (width, height))
        layers = [shown]
    groups = [
        element("g", content, class_=class_, data_s=str(index))
        for layer in layers
        for index, (content, class_) in enumerate(zip(layer, classes, strict=True))
        if content
    ]
    content = element("g", axes, class_="axes") + "".join(groups)
    box = f"0 0 {pixels(width)} {pixels(height)}"
    return Drawing(element("svg", content, viewBox=box, role="img", aria_label=f"Plot: {plot.title}"), height, left_out)


def _axes_and_marks(plot: Plot, y: Scale, size: tuple[float, float]) -> tuple[str, list[str]]:
    """Of lines and points: the axes, then the marks of each series."""
    places = [x for series in plot.series for x in series.x if not isinstance(x, str)]
    x: Scale | Names = place_scale(places, log=plot.log_x)
    if not _all_numbers(plot.series):
        x, plot = Names(category_names(plot.series)), _with_names(plot)
    drawn = frame(x, y, (plot.x_title, plot.y_title), size, places)
    shown = []
    for shape, series in enumerate(plot.series):
        found = marks.points(plot, series, drawn)
        if series.limit:
            shown.append(marks.limit(found, drawn))
        else:
            shown.append((marks.line if plot.kind == "line" else marks.scatter)(found, shape))
    return drawn.axes, shown


def _all_numbers(series: Sequence[Series]) -> bool:
    return all(not isinstance(x, str) for each in series for x in each.x)


def category_names(series: Sequence[Series]) -> list[str]:
    """In the order in which they come; numbers in their own."""
    if _all_numbers(series):
        return [tick_text(x) for x in sorted({float(x) for each in series for x in each.x})]
    return list(dict.fromkeys(_name(x) for each in series for x in each.x))


def _with_names(plot: Plot) -> Plot:
    """With categories in place of numbers."""
    return replace(plot, series=[replace(each, x=[_name(x) for x in each.x]) for each in plot.series])


def _name(x: str | float) -> str:
    return x if isinstance(x, str) else tick_text(x)


def _check(plot: Plot, series: Series) -> None:
    lengths = {len(each) for each in (series.x, series.y, series.low, series.high) if each is not None}
    if len(lengths) > 1:
        raise ValueError(f"series {series.name!r} of plot {plot.title!r} has lists of different lengths")


def with_numbers(plot: Plot) -> Plot:
    """With NaN for a missing number: a command may have put None there."""

    def numbers(values: Sequence[float | None] | None) -> list[float] | None:
        return None if values is None else [math.nan if value is None else float(value) for value in values]

    series = [replace(s, y=numbers(s.y) or [], low=numbers(s.low), high=numbers(s.high)) for s in plot.series]
    return replace(plot, series=series)


def _values(plot: Plot) -> list[float]:
    """All that must lie on the vertical axis."""
    return [v for each in plot.series for values in (each.y, each.low or (), each.high or ()) for v in values]


def _left_out(plot: Plot) -> int:
    total = 0
    for series in plot.series:
        for index, y in enumerate(series.y):
            x = series.x[index]
            total += (plot.log_y and y <= 0) or (plot.log_x and not isinstance(x, str) and x <= 0)
    return total


def series_classes(plots: Sequence[Plot]) -> list[list[str]]:
    """By plot and series. A name keeps its colour from plot to plot, unless another series of a plot has it already."""
    colours: dict[str, int] = {}
    return [_classes(plot, colours) for plot in plots]


def _classes(plot: Plot, colours: dict[str, int]) -> list[str]:
    """``colours``: of the names so far; new ones are added, with the first colours that are free in this plot."""
    names = [series.name for series in plot.series if not series.limit]
    used = Counter[int]()
    own: list[int | None] = []
    for name in names:
        known = colours.get(name)
        kept = known if known is not None and not used[known] else None
        own.append(kept)
        used.update([] if kept is None else [kept])
    for index, name in enumerate(names):
        if own[index] is None:
            free = min(range(COLOURS), key=lambda colour: used[colour])
            own[index] = free
            used[free] += 1
            colours.setdefault(name, free)
    coloured, dashed = iter(own), count()
    return [f"limit d{next(dashed) % DASHES}" if series.limit else f"c{next(coloured)}" for series in plot.series]
