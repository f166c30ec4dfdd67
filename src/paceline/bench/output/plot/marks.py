"""Lines, points, bands and whiskers: what a series looks like between the axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paceline.bench.output.cells import cell_text
from paceline.bench.output.plot.frame import Frame, Names
from paceline.bench.output.plot.scale import Scale, tick_text
from paceline.bench.output.plot.svg import element, pixels
from paceline.bench.sections import Plot, Series

MARKED_POINTS = 100  # a line with more points than this has no marks on them
CROWD = 300  # points of a cloud, drawn small and pale, so that one sees where many lie
SHAPES = 4  # so that series are told apart on paper, too


@dataclass(frozen=True, slots=True)
class Point:
    """A value of a series, and where it lies."""

    x: float
    y: float
    low: float | None
    high: float | None
    tip: str


def points(plot: Plot, series: Series, frame: Frame) -> list[Point | None]:
    """By value; None where there is none, or it lies outside (zero on a logarithmic axis)."""
    found: list[Point | None] = []
    for index, y in enumerate(series.y):
        across, up = _across(frame.x, series.x[index]), at_or_none(frame.y, y)
        if across is None or up is None:
            found.append(None)
            continue
        low, high = (at_or_none(frame.y, end) for end in spread(series, index))
        found.append(Point(across, up, low, high, tip(plot, series, index)))
    return found


def _across(axis: Scale | Names, x: str | float) -> float | None:
    if isinstance(axis, Names):
        return axis.at(x) if isinstance(x, str) else None
    return None if isinstance(x, str) else at_or_none(axis, x)


def at_or_none(scale: Scale, value: float | None) -> float | None:
    return scale.at(value) if value is not None and scale.holds(value) else None


def spread(series: Series, index: int) -> tuple[float | None, float | None]:
    """The lower and upper end around a value, None where the series has none."""
    return (
        None if series.low is None else series.low[index],
        None if series.high is None else series.high[index],
    )


def tip(plot: Plot, series: Series, index: int) -> str:
    """What is shown under the pointer."""
    x = series.x[index]
    low, high = spread(series, index)
    around = f" ({cell_text(low)} – {cell_text(high)})" if low is not None or high is not None else ""
    place = x if isinstance(x, str) else tick_text(x)
    lines = ((plot.x_title, place), (plot.y_title, f"{cell_text(float(series.y[index]))}{around}"))
    return "\n".join([series.name, *(f"{title}: {text}" if title else text for title, text in lines)])


def line(found: list[Point | None], shape: int) -> str:
    """The line through the points, broken where one is missing, above the band of their spread."""
    runs = list(_runs(found))
    banded = [run for part in runs for run in _runs([p if _has_band(p) else None for p in part]) if len(run) > 1]
    parts = [element("path", d=_band(run), class_="band") for run in banded]
    parts += [element("path", d=path(run), class_="line") for run in runs if len(run) > 1]
    known = [point for point in found if point is not None]
    if len(known) <= MARKED_POINTS:
        parts += [mark(point, shape) for point in known]
    else:
        parts += [mark(run[0], shape) for run in runs if len(run) == 1]  # alone, no line shows them
    alone = [run[0] for run in runs if len(run) == 1]
    return "".join([*parts, *(whisker(point.x, point.low, point.high) for point in alone)])


def scatter(found: list[Point | None], shape: int) -> str:
    known = [point for point in found if point is not None]
    if len(known) > CROWD:
        return "".join(element("circle", cx=p.x, cy=p.y, r=2.5, class_="crowd", data_t=p.tip) for p in known)
    return "".join(whisker(point.x, point.low, point.high) + mark(point, shape) for point in known)


def limit(found: list[Point | None], frame: Frame) -> str:
    """A line without marks; a limit of one point holds along the whole axis."""
    known = [point for point in found if point is not None]
    if len(known) == 1:
        left, right, y = pixels(frame.x.start), pixels(frame.x.end), pixels(known[0].y)
        return element("path", d=f"M{left},{y}L{right},{y}", class_="line", data_t=known[0].tip)
    parts = [element("path", d=path(run), class_="line") for run in _runs(found)]
    # Points that cannot be seen still tell their value under the pointer.
    parts += [element("circle", cx=p.x, cy=p.y, r=4, class_="unseen", data_t=p.tip) for p in known]
    return "".join(parts)


def _runs(found: list[Point | None]) -> Iterator[list[Point]]:
    """Stretches without a missing point."""
    run: list[Point] = []
    for point in [*found, None]:
        if point is not None:
            run.append(point)
        elif run:
            yield run
            run = []


def _has_band(point: Point | None) -> bool:
    return point is not None and point.low is not None and point.high is not None


def path(run: list[Point]) -> str:
    return "M" + "L".join(f"{pixels(point.x)},{pixels(point.y)}" for point in run)


def _band(run: list[Point]) -> str:
    """Along the upper ends and back along the lower ones."""
    there = [f"{pixels(p.x)},{pixels(p.high)}" for p in run if p.high is not None]
    back = [f"{pixels(p.x)},{pixels(p.low)}" for p in reversed(run) if p.low is not None]
    return "M" + "L".join([*there, *back]) + "Z"


def mark(point: Point, shape: int) -> str:
    """A disc, square, triangle or diamond."""
    x, y, told = point.x, point.y, point.tip
    kind = shape % SHAPES
    if kind == 0:
        return element("circle", cx=x, cy=y, r=3.5, class_="mark", data_t=told)
    corners = {
        1: [(-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)],
        2: [(0, -4.4), (4.2, 3.2), (-4.2, 3.2)],
        3: [(0, -4.6), (4.6, 0), (0, 4.6), (-4.6, 0)],
    }[kind]
    at = " ".join(f"{pixels(x + dx)},{pixels(y + dy)}" for dx, dy in corners)
    return element("polygon", points=at, class_="mark", data_t=told)


def whisker(at: float, low: float | None, high: float | None, *, flat: bool = False) -> str:
    """From the lower to the upper end with a bar across each; ``flat``: along the horizontal axis. An end that is
    missing is not drawn, nor is a line without both, or one that nobody could see."""
    if low is None or high is None or abs(high - low) < 1:
        return ""
    strokes = [((at, low), (at, high)), ((at - 3, low), (at + 3, low)), ((at - 3, high), (at + 3, high))]
    turned = [tuple(end[::-1] for end in stroke) if flat else stroke for stroke in strokes]
    d = "".join(f"M{pixels(a[0])},{pixels(a[1])}L{pixels(b[0])},{pixels(b[1])}" for a, b in turned)
    return element("path", d=d, class_="whisker")
