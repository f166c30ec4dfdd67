"""A ``sections.Plot`` as a figure of plotly, which checks it here and draws it in the browser.

Colours are names of the page's style (``var(--c0)``); its script puts in those of a light or dark window, or of paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count, groupby, pairwise
from typing import Any

from paceline.bench.output.cells import cell_text
from paceline.bench.output.plot_values import Points, Value, points_of, shown
from paceline.bench.sections import Plot, Series

AREA = 240  # pixels between the axes, from bottom to top: legend and names come on top
LEGEND_LINE = 20  # pixels
LEGEND_LETTERS = 44  # of a line of a name in the legend
LYING_BAR = 17  # pixels of a lying bar
DASHES = ("dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "triangle-up", "diamond")  # so that series are told apart on paper, too
MARKED = 100  # a line with more points than this has small marks
CROWD = 300  # points of a cloud, drawn small and pale, so that one sees where many lie
UPRIGHT_BARS = 12  # more have no room for their values beside each other in a narrow window
UPRIGHT_LETTERS = 70  # of the longest name times the number of names
NAME_LETTERS = 22  # a line of a name beside lying bars
GROUP = 0.8  # of the room of a category that its bars take

#: Attributes of a trace or of the layout, by the names that plotly gives them.
Attributes = dict[str, Any]


def figure(plot: Plot, colours: Sequence[str]) -> Any:
    """A ``plotly.graph_objects.Figure``, None when there is nothing to draw. ``colours``: of the series.
    ``layout.meta["area"]``: pixels between the axes from bottom to top. Raises ``ValueError`` when a series' lists
    differ in length."""
    import plotly.graph_objects

    points, names = points_of(plot)
    if all(y is None for own in points for y in own.y):
        return None
    beside = max(1, sum(not series.limit for series in plot.series))
    lying = plot.kind == "bar" and _lie(names, beside)
    if plot.kind == "bar":
        labels = lying or beside * len(names) <= UPRIGHT_BARS
        traces = _bars(plot, points, colours, lying=lying, width=GROUP / beside, labels=labels)
    else:
        traces = _lines(plot, points, colours, len(names))
    # A legend may take half of the height, and one name a line in a narrow window: what is longer would be scrolled.
    legend = LEGEND_LINE * sum(_lines_of(series.name, LEGEND_LETTERS) for series in plot.series)
    area = max(AREA, legend - 60)
    if lying:  # each name has the room of its bars or of its lines
        lines = max(_lines_of(name, NAME_LETTERS) for name in names)
        area = max(area, len(names) * max(beside * LYING_BAR + 12, lines * 15 + 6))
    size = {"meta": {"area": area}, "height": area + 100 + legend}
    return plotly.graph_objects.Figure(data=traces, layout=_layout(plot, points, names, lying=lying) | size)


def _lines_of(name: str, width: int) -> int:
    return shown(name, width).count("<br>") + 1


def _lie(names: Mapping[str, float], beside: int) -> bool:
    """Whether names or values have no room below and above upright bars. Numbers are read along an axis."""
    if all(name.replace(",", "").replace(".", "").isdigit() for name in names):
        return False
    return max(map(len, names)) * len(names) > UPRIGHT_LETTERS or beside * len(names) > UPRIGHT_BARS


def _named(series: Series, index: int) -> Attributes:
    """A legend's click hides and shows all traces of its group."""
    return {"name": shown(series.name, LEGEND_LETTERS) or " ", "legendgroup": str(index), "hoverinfo": "text"}


def _unnamed(index: int) -> Attributes:
    return {"legendgroup": str(index), "showlegend": False, "hoverinfo": "skip"}


def _limit(series: Series, index: int, number: int, x: list[Value], y: list[Value], tips: list[str]) -> Attributes:
    line = {"color": "var(--ink)", "width": 1.5, "dash": DASHES[number % len(DASHES)]}
    return _named(series, index) | {"type": "scatter", "mode": "lines", "x": x, "y": y, "hovertext": tips, "line": line}


def _whiskers(points: Points, colour: str, without: set[int]) -> Attributes:
    """Error bars of the points that have both ends, but for those at the indices ``without``."""
    above: list[Value] = [None] * len(points.y)
    below: list[Value] = [None] * len(points.y)
    for index, (y, low, high) in enumerate(zip(points.y, points.low, points.high, strict=True)):
        if index in without or low == high:  # nothing there, or nothing to see
            continue
        if y is not None and low is not None and high is not None:
            above[index], below[index] = high - y, y - low
    if all(end is None for end in above):
        return {}
    style = {"color": colour, "thickness": 1.2, "width": 3}
    return style | {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _lines(plot: Plot, points: Sequence[Points], colours: Sequence[str], names: int) -> list[Attributes]:
    """Of lines and clouds: the bands of their spread, then what lies on these. A point that no band holds has an error
    bar."""
    bands, traces, limits = [], [], count()
    ends = (-0.5, names - 0.5) if names else _ends([x for own in points for x in own.x], log=plot.log_x)
    for index, (series, own, colour) in enumerate(zip(plot.series, points, colours, strict=True)):
        if series.limit:
            once = len(own.y) == 1  # it holds along the whole axis
            line = (list(ends), own.y * 2, own.tips * 2) if once else (own.x, own.y, own.tips)
            traces.append(_limit(series, index, next(limits), *line))
            continue
        runs = _runs(own) if plot.kind == "line" else []
        if runs:
            bands.append(_unnamed(index) | _band(own, runs, colour))
        crowd = plot.kind == "scatter" and len(own.y) > CROWD
        small = crowd or (plot.kind == "line" and len(own.y) > MARKED)
        marker = {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 4 if small else 7, "opacity": 0.45 if crowd else 1}
        trace = {"x": own.x, "y": own.y, "hovertext": own.tips, "marker": marker | {"color": colour}}
        trace |= {"type": "scatter", "mode": "lines+markers" if plot.kind == "line" else "markers"}
        trace |= {"line": {"color": colour, "width": 2}, "connectgaps": False}
        whiskers = {} if crowd else _whiskers(own, colour, without={i for run in runs for i in run})
        traces.append(_named(series, index) | trace | {"error_y": whiskers})
    return bands + traces


def _ends(values: Sequence[Value], *, log: bool) -> tuple[float, float]:
    """Of the axis; around a single value."""
    held = [value for value in values if value is not None] or [1.0]
    low, high = min(held), max(held)
    if low < high:
        return low, high
    return (low / 1.5, low * 1.5) if log else (low - (abs(low) * 0.1 or 1), low + (abs(low) * 0.1 or 1))


def _runs(points: Points) -> list[list[int]]:
    """Stretches of at least two points that have a spread."""
    whole = [None not in each for each in zip(points.x, points.y, points.low, points.high, strict=True)]
    runs = [list(run) for held, run in groupby(range(len(whole)), whole.__getitem__) if held]
    return [run for run in runs if len(run) > 1]


def _band(points: Points, runs: Sequence[list[int]], colour: str) -> Attributes:
    """Along the upper ends and back along the lower ones, one closed shape a run."""
    x: list[Value] = []
    y: list[Value] = []
    for run in runs:
        x += [*(points.x[i] for i in [*run, *run[::-1]]), None]
        y += [*(points.high[i] for i in run), *(points.low[i] for i in run[::-1]), None]
    fill = {"fill": "toself", "fillcolor": colour, "opacity": 0.18, "line": {"width": 0}}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y} | fill


def _bars(
    plot: Plot, points: Sequence[Points], colours: Sequence[str], *, lying: bool, width: float, labels: bool
) -> list[Attributes]:
    """Bars beside each other with error bars, limits across them, and above all the bars' values where ``labels``.
    ``width``: of a bar, where categories are 1 apart."""
    bars: list[Attributes] = []
    limits: list[Attributes] = []
    values: list[Attributes] = []
    along, up = ("y", "x") if lying else ("x", "y")
    for index, (series, own, colour) in enumerate(zip(plot.series, points, colours, strict=True)):
        if series.limit:
            ends = _across(own)
            x, y = (ends.y, ends.x) if lying else (ends.x, ends.y)
            limits.append(_limit(series, index, len(limits), x, y, ends.tips))
            continue
        offset = len(bars) * width - GROUP / 2
        bar: Attributes = {"type": "bar", "orientation": "h" if lying else "v", along: own.x, up: own.y}
        bar |= {"offset": offset, "width": width * 0.94, "marker": {"color": colour, "line": {"width": 0}}}
        bar |= {"hovertext": own.tips, f"error_{up}": _whiskers(own, "var(--ink)", without=set())}
        bars.append(_named(series, index) | bar)
        tops = [y if y is None else max(y, 0.0, high or y) for y, high in zip(own.y, own.high, strict=True)]
        text: Attributes = {along: [x if x is None else x + offset + width * 0.47 for x in own.x], up: tops}
        text |= {"type": "scatter", "mode": "text", "textposition": "middle right" if lying else "top center"}
        text |= {"text": ["" if y is None else f"\u00a0{cell_text(y)}\u00a0" for y in own.y]}
        values.append(_unnamed(index) | text | {"textfont": {"size": 11}, "cliponaxis": False})
    return bars + limits + (values if labels else [])


def _across(limit: Points) -> Points:
    """Three points for each: from one side of its category to the other, then none, so that the line ends."""
    half = GROUP / 2
    x = [end for x in limit.x for end in ((None,) * 3 if x is None else (x - half, x + half, None))]
    y, tips = [y for y in limit.y for _ in range(3)], [tip for tip in limit.tips for _ in range(3)]
    return Points(x, y, [], [], tips)


def _layout(plot: Plot, points: Sequence[Points], names: Mapping[str, float], *, lying: bool) -> Attributes:
    values = [v for own in points for ends in (own.y, own.low, own.high) for v in ends if v is not None]
    places = _axis(plot.x_title, 40 if lying else 60, log=plot.log_x and not names) | {"zeroline": False}
    if names:
        ticks = [shown(name, NAME_LETTERS if lying else max(16, 50 // len(names))) for name in names]
        ends = (-0.5, len(names) - 0.5)
        places |= {"tickvals": list(names.values()), "ticktext": ticks, "showgrid": False}
        places["range"] = ends[::-1] if lying else ends
    elif plot.log_x:
        places |= _ticks([x for own in points for x in own.x if x is not None], themselves=True)
    heights = _axis(plot.y_title, 60 if lying else 40, log=plot.log_y)
    if plot.log_y:
        heights |= _ticks(values, themselves=False)
    elif plot.kind == "bar" or 0 <= min(values) <= 0.5 * max(values):
        heights["rangemode"] = "tozero"  # a difference that fills the plot looks larger than it is
    if lying and not plot.log_y:
        heights |= {"nticks": 4, "tickangle": 0}  # beside long names little of a narrow window is left
    told = len(plot.series) == 1 and plot.series[0].name in ("", plot.title, plot.y_title)
    corner = {"xref": "container", "x": 0, "yref": "container", "y": 1, "yanchor": "top"}
    tip = {"bgcolor": "var(--ink)", "bordercolor": "var(--ink)", "font": {"color": "var(--paper)", "size": 12}}
    return {
        "template": "none",
        "xaxis": heights if lying else places,
        "yaxis": places if lying else heights,
        "showlegend": not told,
        "legend": corner | {"orientation": "h", "tracegroupgap": 0},
        "font": {"color": "var(--ink)", "size": 12},
        "margin": {"l": 10, "r": 48 if lying else 12, "t": 22, "b": 10},
        "hovermode": "closest",
        "hoverlabel": tip | {"align": "left"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--faint)", "activecolor": "var(--ink)"},
        "paper_bgcolor": "var(--paper)",
        "plot_bgcolor": "var(--paper)",
        "uirevision": "kept",  # what is hidden or zoomed stays so when the page draws again
    }


def _axis(title: str, width: int, *, log: bool) -> Attributes:
    """``width``: characters of a line of its title."""
    lines = {"gridcolor": "var(--rule)", "zerolinecolor": "var(--faint)", "linecolor": "var(--faint)", "showline": True}
    numbers = {"type": "log" if log else "linear", "exponentformat": "SI", "minexponent": 4}
    text = {"title": {"text": shown(title, width), "standoff": 8}, "tickfont": {"color": "var(--faint)"}}
    return lines | numbers | text | {"automargin": True}


def _ticks(values: Sequence[float], *, themselves: bool) -> Attributes:
    """Of a logarithmic axis: the values ``themselves`` where they are few, as batch sizes are, or round ones with all
    their digits, where plotly writes "2" for 20. None, so plotly's, where few round ones lie on the axis."""
    own = sorted(set(values))
    found = own
    if not themselves or not own or len(own) > 12 or any(b < 1.3 * a for a, b in pairwise(own)):
        decades = range(math.floor(math.log10(own[0])), math.ceil(math.log10(own[-1])) + 1)
        factors = (1, 2, 5) if len(decades) <= 4 else (1,)
        found = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
        if sum(own[0] <= tick <= own[-1] for tick in found) < 3:
            return {}
    return {"tickvals": found, "ticktext": [f"{tick:,g}" for tick in found]}
