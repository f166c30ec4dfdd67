"""The roofline itself: operations per byte against achieved operations a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.bench.roofline.work import Ceilings, Work
from paceline.bench.sections import Plot, Series

GIGA = 1e9
MARGIN = 2.0  # the roofs go on so much beyond the outermost points


@dataclass(frozen=True, slots=True)
class Point:
    """A measured operation: ``work`` took ``seconds``. Points of one ``series`` have one name in the plot."""

    series: str
    work: Work
    seconds: float


def roofline_plot(points: Sequence[Point], ceilings: Ceilings, title: str = "The roofline") -> Plot:
    """Points under the roofs of the arithmetics that they use. A roof rises with the bandwidth up to its ridge and is
    flat from there on."""
    known = [point for point in points if point.work.nbytes and point.work.total_ops]
    low = min(point.work.intensity for point in known) / MARGIN
    high = max(point.work.intensity for point in known) * MARGIN
    series = []
    for name in dict.fromkeys(point.series for point in known):
        own = [point for point in known if point.series == name]
        x = [point.work.intensity for point in own]
        series.append(Series(name, x, [point.work.total_ops / point.seconds / GIGA for point in own]))
    used = {arithmetic for point in known for arithmetic in point.work.ops}
    series += [_roof(arithmetic, ceilings, low, high) for arithmetic in sorted(used)]
    return Plot(
        title, "operations per byte", "achieved [GOP/s]", series, kind="scatter", log_x=True, log_y=True,
        note="Dashed: memory bandwidth (rising) and the rate of each arithmetic (flat), measured in the same run.",
    )  # fmt: skip


def _roof(arithmetic: str, ceilings: Ceilings, low: float, high: float) -> Series:
    ridge = ceilings.rates[arithmetic] / ceilings.bandwidth
    x = sorted({low, min(max(ridge, low), high), high})
    y = [min(ceilings.bandwidth * at, ceilings.rates[arithmetic]) / GIGA for at in x]
    return Series(f"limit, {arithmetic}", x, y, limit=True)
