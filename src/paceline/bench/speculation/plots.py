"""Plots about speculation: acceptance by place and position, lengths of steps, speed-ups, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paceline.bench.sections import Plot, Series
from paceline.bench.speculation.acceptance import Acceptance
from paceline.bench.speculation.calibration import Calibration
from paceline.bench.speculation.measurement import Measurement

LONGEST = 16  # positions and lengths beyond this are left out of plots; the JSON has all
LINES = 8  # sets that a plot by position shows

LENGTH = "acceptance length [tokens a step]"


def category_plot(title: str, lines: Mapping[str, Mapping[str, float]], x_title: str = "category") -> Plot:
    """Acceptance lengths as bars: name of a line -> category -> length."""
    series = [Series(name, list(values), list(values.values())) for name, values in lines.items()]
    return Plot(title, x_title, LENGTH, series, kind="bar")


def position_plot(counts: Mapping[str, Acceptance]) -> Plot:
    """Joint and conditional acceptance by position in the draft, from 1; two lines a name."""
    series = []
    for name, acceptance in list(counts.items())[:LINES]:
        for kind, shares in (("joint", acceptance.joint), ("conditional", acceptance.conditional)):
            shown = shares[:LONGEST]
            series.append(Series(f"{name}, {kind}", [float(i + 1) for i in range(len(shown))], shown))
    return Plot("Acceptance by position in the draft", "draft position", "share of steps", series)


def length_plot(counts: Mapping[str, Acceptance]) -> Plot:
    """Histogram of L: share of the steps that gave so many tokens."""
    series = []
    for name, acceptance in list(counts.items())[:LINES]:
        lengths = range(1, min(LONGEST, max(acceptance.lengths, default=1)) + 1)
        shares = [acceptance.lengths[length] / max(1, acceptance.steps) for length in lengths]
        series.append(Series(name, [str(length) for length in lengths], shares))
    return Plot("Tokens that a verification step gave", "tokens [1]", "share of steps", series, kind="bar")


def speedup_plot(measurements: Sequence[Measurement]) -> Plot:
    """Speed-up in user TPS by set, a line a load, with the quartiles of single turns."""
    series = []
    for load in dict.fromkeys(measurement.load for measurement in measurements):
        found = [(m.workload, s) for m in measurements if m.load == load and (s := m.speedup) is not None]
        names, speedups = [name for name, _ in found], [speedup for _, speedup in found]
        series.append(
            Series(
                f"{load} at a time",
                names,
                [s.median for s in speedups],
                [s.q1 for s in speedups],
                [s.q3 for s in speedups],
            )
        )
    return Plot("Speed-up by drafts (user TPS)", "set", "with / without drafts", series, kind="bar")


def calibration_plot(calibration: Calibration) -> Plot:
    """Realised over predicted survival of draft tokens, a point a bin; on the dashed line guesses come true. Bins are
    named after their drafter and their range."""
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in calibration.bins():
        drafter = entry.name.rpartition(" ")[0] or "draft tokens"
        points.setdefault(drafter, []).append((entry.predicted, entry.realised))
    series = [
        Series(name, [predicted for predicted, _ in sorted(found)], [realised for _, realised in sorted(found)])
        for name, found in points.items()
    ]
    ideal = Series("as predicted", [0.0, 1.0], [0.0, 1.0], limit=True)
    return Plot("Survival of draft tokens", "predicted", "realised", [*series, ideal], kind="scatter")
