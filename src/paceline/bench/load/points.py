"""Measured points, and their medians over repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from paceline.bench.load.counters import ServerReport, server_report
from paceline.bench.load.driver import PointRun
from paceline.bench.load.loads import Load
from paceline.bench.load.metrics import (
    PERCENTILES,
    Distribution,
    Goodput,
    PointMetrics,
    dollars_per_million,
    point_metrics,
)
from paceline.bench.load.records import ClientReport, RequestRecord
from paceline.bench.statistics import quantile

LATENCIES = ("ttft", "tpot", "itl", "e2e")
SATURATED_SHARE = 0.8  # of the arrivals that are answered, below it the server is behind
SATURATED_TTFT = 10.0  # seconds at P50


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of repeats with the lowest and the highest one."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """None when no repeat has a value."""
    found = [value for value in values if value is not None]
    return Spread(quantile(found, 0.5), min(found), max(found)) if found else None


@dataclass(frozen=True, slots=True)
class Point:
    """One target under one load, once. ``texts``: hashes of the answers by number of the request. ``problem``: why its
    figures cannot be used at all (the server died); ``late``: why they should not be trusted (the client was late)."""

    target: str
    workload: str
    load: Load
    repeat: int
    metrics: PointMetrics
    client: ClientReport
    server: ServerReport
    texts: dict[int, str] = field(default_factory=dict)
    problem: str = ""
    late: str = ""

    @property
    def saturated(self) -> bool:
        """Whether requests come faster than the server answers, so that a higher rate would tell nothing new."""
        metrics = self.metrics
        if self.load.kind != "rate" or metrics.ttft is None:
            return False
        return metrics.request_rate < SATURATED_SHARE * self.load.value and metrics.ttft.p50 > SATURATED_TTFT

    def to_json(self, dollars_per_hour: float | None) -> dict[str, Any]:
        values = asdict(self)
        values["load"] = {"kind": self.load.kind, "value": self.load.value}
        values["server"] |= {
            "acceptance_rate": self.server.acceptance_rate,
            "acceptance_length": self.server.acceptance_length,
        }
        if dollars_per_hour is not None:
            values["dollars_per_million_output_tokens"] = cost(self.metrics.output_rate, dollars_per_hour)
            values["dollars_per_million_tokens"] = cost(self.metrics.token_rate, dollars_per_hour)
        return values


def cost(rate: float, dollars_per_hour: float | None) -> float | None:
    return None if dollars_per_hour is None else dollars_per_million(dollars_per_hour, rate)


def make_point(
    target: str, workload: str, load: Load, repeat: int, run: PointRun, goodput: Goodput, late_limit: float
) -> Point:
    """The point that a run of the load generator measured."""
    assert run.client is not None
    metrics = point_metrics(run.records, goodput, run.client.unsent)
    return Point(
        target,
        workload,
        load,
        repeat,
        metrics,
        run.client,
        server_report(run.before, run.after, run.during),
        {record.index: record.text for record in run.records if not record.error},
        problem=run.broken or run.client.stopped,
        late=lateness(run.records, run.client, late_limit),
    )


def lateness(records: Sequence[RequestRecord], client: ClientReport, limit: float) -> str:
    """Why a client that was late makes the point invalid; "" when it was in time."""
    late = quantile([record.late for record in records], 0.99) if records else 0.0
    if late > limit:
        return f"requests left {late * 1e3:.1f} ms late at P99 (limit {limit * 1e3:g} ms)"
    if client.lag_p99 > limit:
        return f"its event loop was held up for {client.lag_p99 * 1e3:.1f} ms at P99 (limit {limit * 1e3:g} ms)"
    return ""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A target under a load, over all repeats that can be used."""

    target: str
    workload: str
    load: Load
    points: Sequence[Point]

    @property
    def valid(self) -> bool:
        """Whether the client was in time in every repeat."""
        return not any(point.late for point in self.points)

    def over(self, value: Callable[[Point], float | None]) -> Spread | None:
        """Median and extremes over repeats of ``value``."""
        return spread(value(point) for point in self.points)

    def latency(self, name: str, percentile: int) -> Spread | None:
        """Of ``ttft``, ``tpot``, ``itl`` or ``e2e`` [s]."""
        assert percentile in PERCENTILES
        return self.over(lambda point: _at(getattr(point.metrics, name), percentile))

    @property
    def requests(self) -> int:
        return sum(point.metrics.requests + point.client.unsent for point in self.points)

    @property
    def failed(self) -> int:
        """Requests without an answer, those that were never sent included."""
        return self.requests - sum(point.metrics.completed for point in self.points)


def _at(values: Distribution | None, percentile: int) -> float | None:
    return None if values is None else values.at(percentile)


def operating_points(points: Iterable[Point]) -> list[OperatingPoint]:
    """Points of all repeats together, in the order in which they were first measured; those with a ``problem`` are left
    out."""
    groups: dict[tuple[str, str, Load], list[Point]] = {}
    for point in points:
        if not point.problem:
            groups.setdefault((point.target, point.workload, point.load), []).append(point)
    return [OperatingPoint(*key, found) for key, found in groups.items()]
