"""Who is fastest at what share of the operating points, and by what ratio. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.bench.load.points import OperatingPoint
from paceline.bench.statistics import Summary, compare

FAILED_LIMIT = 0.01  # of a target's requests at a point; with more, its latency is that of too few
METRICS = ("ttft", "e2e")
PERCENTILES = (50, 95)

#: Median latency over repeats by target, at one operating point; None: it has none that counts.
Values = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Share:
    """``won`` of ``points``: where a target had the lowest latency."""

    won: int
    points: int

    @property
    def share(self) -> float | None:
        return self.won / self.points if self.points else None


def shares(points: Sequence[Values], targets: Sequence[str]) -> dict[str, Share]:
    """Of the points that anybody finished: at how many each target had the lowest value. A tie counts for all that
    have it."""
    won = dict.fromkeys(targets, 0)
    finished = 0
    for values in points:
        known = {target: value for target, value in values.items() if value is not None}
        if not known:
            continue
        finished += 1
        lowest = min(known.values())
        for target, value in known.items():
            won[target] += value == lowest
    return {target: Share(count, finished) for target, count in won.items()}


def latency_values(
    measured: Sequence[OperatingPoint], targets: Sequence[str], metric: str, percentile: int
) -> list[Values]:
    """Values of each operating point (workload x load). Left out, as a whole, are points where the client was late for
    any target; a target that failed more than 1% of its requests there has no value."""
    groups: dict[tuple[str, str], dict[str, OperatingPoint]] = {}
    for point in measured:
        groups.setdefault((point.workload, str(point.load)), {})[point.target] = point
    return [
        {target: _value(group.get(target), metric, percentile) for target in targets}
        for group in groups.values()
        if all(point.valid for point in group.values())
    ]


def counts(point: OperatingPoint) -> bool:
    """Whether it answered enough of its requests for its latency to say anything."""
    return point.requests > 0 and point.failed <= FAILED_LIMIT * point.requests


def _value(point: OperatingPoint | None, metric: str, percentile: int) -> float | None:
    if point is None or not counts(point):
        return None
    value = point.latency(metric, percentile)
    return None if value is None else value.median


def latency_ratio(point: OperatingPoint, reference: OperatingPoint, metric: str, percentile: int) -> Summary | None:
    """The point's latency / the reference's: ratio of medians, quartiles of the repeats' ratios."""
    pairs = []
    for one in point.points:
        for other in reference.points:
            values = (getattr(one.metrics, metric), getattr(other.metrics, metric))
            if one.repeat == other.repeat and None not in values:
                pairs.append((values[0].at(percentile), values[1].at(percentile)))
    if not pairs or not all(base for _, base in pairs):
        return None
    return compare([value for value, _ in pairs], [base for _, base in pairs])


def same_texts(point: OperatingPoint, reference: OperatingPoint) -> float | None:
    """Share of the requests that both answered whose texts are the same."""
    same = both = 0
    for one in point.points:
        for other in reference.points:
            if one.repeat == other.repeat:
                common = one.texts.keys() & other.texts.keys()
                both += len(common)
                same += sum(one.texts[index] == other.texts[index] for index in common)
    return same / both if both else None
