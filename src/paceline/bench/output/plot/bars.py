"""Bars by category: upright where the names have room beneath, lying otherwise, each with its value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paceline.bench.output.cells import cell_text
from paceline.bench.output.plot.frame import LINE, Names, frame, title_lines
from paceline.bench.output.plot.marks import at_or_none, spread, tip, whisker
from paceline.bench.output.plot.scale import Scale, round_ticks, tick_text
from paceline.bench.output.plot.svg import element, shortened, text_width, words, wrapped
from paceline.bench.sections import Plot, Series

#: Bars, and their values as text, which lies above everything else.
Drawn = tuple[str, str]

THICKEST = 46.0  # pixels
THINNEST = 7.0  # of an upright bar; lying ones have as much room as they need
LYING = 15.0  # pixels of a lying bar


@dataclass(frozen=True, slots=True)
class Bar:
    """``start``, ``end``: pixels along the categories."""

    start: float
    end: float
    series: Series
    index: int  # of the value in its series

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


def bar_plot(
    plot: Plot, groups: Sequence[str], y: Scale, size: tuple[float, float], *, upright: bool
) -> tuple[str, list[Drawn], float]:
    """Axes, then the bars and their values of each series, and the height that it took. ``groups``: the categories, by
    which all series name their places. ``upright``: whatever the room (numbers, which are read along an axis)."""
    bars = max(1, sum(not series.limit for series in plot.series))
    drawn = frame(Names(groups), y, (plot.x_title, plot.y_title), size, room=8)
    assert isinstance(drawn.x, Names)
    thick = min(THICKEST, drawn.x.part * 0.8 / bars)
    if not upright and (thick < THINNEST or not drawn.x.fit()):
        return _lying(plot, groups, y, size[0], bars)
    starts = {name: drawn.x.at(name) - thick * bars / 2 for name in groups}
    placed = _placed(plot.series, starts, thick)
    return drawn.axes, [_joined(_upright(plot, bar, drawn.y) for bar in each) for each in placed], size[1]


def _placed(series: Sequence[Series], starts: dict[str, float], thick: float) -> list[list[Bar]]:
    """Beside each other in each category; a limit lies across all of them."""
    count = max(1, sum(not each.limit for each in series))
    placed = []
    number = 0
    for each in series:
        first, last = (0, count) if each.limit else (number, number + 1)
        number += not each.limit
        at = [starts[str(x)] for x in each.x]
        placed.append([Bar(a + first * thick, a + last * thick, each, index) for index, a in enumerate(at)])
    return placed


def _joined(parts: Iterable[Drawn]) -> Drawn:
    bars, values = zip(*parts, strict=True) if (parts := list(parts)) else ((), ())
    return "".join(bars), "".join(values)


def _upright(plot: Plot, bar: Bar, y: Scale) -> Drawn:
    value = bar.series.y[bar.index]
    if not y.holds(value):
        return "", ""
    told, top, foot = tip(plot, bar.series, bar.index), y.at(value), y.at(_foot(y))
    if bar.series.limit:
        return element("line", x1=bar.start - 3, y1=top, x2=bar.end + 3, y2=top, class_="line", data_t=told), ""
    width = bar.end - bar.start
    box = element(
        "rect", x=bar.start + 0.5, y=min(top, foot), width=width - 1, height=abs(foot - top), class_="bar", data_t=told
    )
    low, high = (at_or_none(y, end) for end in spread(bar.series, bar.index))
    text = cell_text(float(value))
    shown = words(text, bar.middle, min(top, foot, top if high is None else high) - 4, class_="value", anchor="middle")
    return box + whisker(bar.middle, low, high), shown if text_width(text) * 0.85 <= width + 2 else ""


def _lying(plot: Plot, groups: Sequence[str], y: Scale, width: float, bars: int) -> tuple[str, list[Drawn], float]:
    """A line of text for each category, its bars below, and the values' axis at the bottom."""
    room = max(text_width(cell_text(float(value))) for series in plot.series for value in [*series.y, 0.0]) + 6
    along = y.moved(4, width - room)
    starts, bottom, heads = {}, LINE, []
    for name in groups:
        heads.append(words(shortened(name, width), 0, bottom))
        starts[name] = bottom + 5
        bottom += bars * LYING + LINE + 10
    bottom -= LINE - 4
    ticks = round_ticks(along, max(2, int(width / 90)))
    axes = [element("line", x1=x, y1=4, x2=x, y2=bottom, class_="grid") for x in map(along.at, ticks)]
    axes += [words(tick_text(tick), along.at(tick), bottom + 13, anchor=_anchor(along, tick)) for tick in ticks]
    titles = wrapped(plot.y_title, width)
    axes += title_lines(titles, width / 2, bottom + 13 + LINE + 2, "middle")
    placed = _placed(plot.series, starts, LYING)
    marks = [_joined(_flat(plot, bar, along) for bar in each) for each in placed]
    return "".join([*axes, *heads]), marks, bottom + 13 + LINE * len(titles) + 8


def _anchor(along: Scale, tick: float) -> str:
    return "start" if along.at(tick) - along.start < 8 else "middle"


def _flat(plot: Plot, bar: Bar, along: Scale) -> Drawn:
    value = bar.series.y[bar.index]
    if not along.holds(value):
        return "", ""
    told, end, foot = tip(plot, bar.series, bar.index), along.at(value), along.at(_foot(along))
    if bar.series.limit:
        return element("line", x1=end, y1=bar.start - 2, x2=end, y2=bar.end + 2, class_="line", data_t=told), ""
    box = element(
        "rect", x=min(end, foot), y=bar.start, width=abs(end - foot), height=LYING - 2, class_="bar", data_t=told
    )
    low, high = (at_or_none(along, end) for end in spread(bar.series, bar.index))
    beside = max(end, foot, end if high is None else high) + 4
    text = words(cell_text(float(value)), beside, bar.start + LYING - 4, class_="value")
    return box + whisker(bar.start + LYING / 2 - 1, low, high, flat=True), text


def _foot(scale: Scale) -> float:
    """Where bars begin: zero, or the end of a logarithmic axis, which has none."""
    return scale.low if scale.log else min(max(0.0, scale.low), scale.high)
