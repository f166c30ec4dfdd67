"""Tables and plots that ``bench serve`` and ``bench compare`` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from paceline.bench.load.metrics import PERCENTILES
from paceline.bench.load.points import LATENCIES, OperatingPoint, Point, Spread, cost
from paceline.bench.load.settings import Settings
from paceline.bench.report import number
from paceline.bench.sections import Cell, Plot, Series, Table

MILLISECONDS = 1e3
ITL_NOTE = (
    "ITL is the gap between chunks of a stream, and a chunk may hold several tokens when drafts are accepted; TPOT is "
    "a token's time after the first one."
)


def latency_table(points: Sequence[OperatingPoint], with_target: bool) -> Table:
    """A row for each load, target and metric."""
    repeats = max((len(point.points) for point in points), default=1)
    edges = ("P50 lowest – highest", "P95 lowest – highest") if repeats > 1 else ()
    head = ("load", *(("target",) if with_target else ()), "metric")
    columns = (*head, *(f"P{percentile} [ms]" for percentile in PERCENTILES), *edges)
    rows = []
    for point in points:
        for name in LATENCIES:
            found = {percentile: point.latency(name, percentile) for percentile in PERCENTILES}
            values: list[Cell] = [milliseconds(value) for value in found.values()]
            spreads: list[Cell] = [between(found[p], MILLISECONDS) for p in (50, 95)] if repeats > 1 else []
            rows.append([*labels(point, with_target), name.upper(), *values, *spreads])
    note = f"Requests without an error. {_over(repeats)}{ITL_NOTE}"
    return Table("Latency", columns, rows, note)


def throughput_table(points: Sequence[OperatingPoint], settings: Settings, with_target: bool) -> Table:
    """What went through, and how the client did."""
    repeats = max((len(point.points) for point in points), default=1)
    dollars = settings.dollars_per_hour
    columns = ["load", *(["target"] if with_target else []), "requests", "errors", "in [tokens]", "out [tokens]"]
    columns += ["requests/s", "output tokens/s", *(["lowest – highest"] if repeats > 1 else []), "goodput"]
    columns += ["most in flight", *([] if dollars is None else ["$ / 1M output tokens"]), "client late, P99 [ms]"]
    rows = []
    for point in points:
        row: list[Cell] = [*labels(point, with_target), point.requests, point.failed]
        row += [median(point, lambda p: p.metrics.prompt_tokens), median(point, lambda p: p.metrics.output_tokens)]
        rate = point.over(lambda p: p.metrics.output_rate)
        row += [median(point, lambda p: p.metrics.request_rate), None if rate is None else rate.median]
        row += [between(rate, 1.0)] if repeats > 1 else []
        row += [median(point, lambda p: p.metrics.goodput), count(point, lambda p: float(p.metrics.max_in_flight))]
        row += [] if dollars is None or rate is None else [cost(rate.median, dollars)]
        late = point.over(lambda p: p.metrics.late.p99 if p.metrics.late is not None else None)
        worst = late.high * MILLISECONDS if late is not None else 0.0
        rows.append([*row, worst if point.valid else f"{number(worst)} INVALID"])
    note = f"Goodput: share of all requests, errors counted as missed, with {settings.goodput}. {_over(repeats)}"
    note += "Requests, errors and the latest client are those of all repeats." if repeats > 1 else ""
    return Table("Throughput", columns, rows, note.strip())


def server_table(points: Sequence[OperatingPoint], with_target: bool) -> Table | None:
    """What the servers' own counters say; None when no server tells."""
    columns = ["load", *(["target"] if with_target else []), "acceptance length", "accepted / drafted"]
    columns += ["from prefix cache", "longest queue", "KV cache, peak", "preemptions"]
    rows: list[list[Cell]] = []
    for point in points:
        values = [
            median(point, lambda p: p.server.acceptance_length),
            median(point, lambda p: p.server.acceptance_rate),
            median(point, lambda p: p.server.prefix_hit_rate),
            count(point, lambda p: p.server.peak_waiting),
            median(point, lambda p: p.server.peak_kv_usage),
            count(point, lambda p: p.server.preemptions),
        ]
        if any(value is not None for value in values):
            rows.append([*labels(point, with_target), *values])
    note = (
        "From /metrics, before and after each point; queue and KV cache are looked at once a second. Acceptance "
        "length: mean tokens of a step that verified a draft. From prefix cache: share of prompt tokens."
    )
    return Table("Counters of the server", columns, rows, note) if rows else None


def error_table(points: Sequence[Point]) -> Table | None:
    """Errors by what they say; None when there were none."""
    found: dict[tuple[str, str, str], int] = {}
    for point in points:
        for error, number_of_it in point.metrics.errors.items():
            key = (f"{point.workload}, {point.load}", point.target, error)
            found[key] = found.get(key, 0) + number_of_it
        if point.client.unsent:
            found[f"{point.workload}, {point.load}", point.target, "never sent"] = point.client.unsent
    if not found:
        return None
    return Table(
        "Errors", ("point", "target", "error", "requests"), [[*key, requests] for key, requests in found.items()]
    )


def load_plots(points: Sequence[OperatingPoint], title: str) -> list[Plot]:
    """Latency against load, throughput against latency, goodput. Points of one kind of load, in their order."""
    by_target: dict[str, list[OperatingPoint]] = {}
    for point in points:
        by_target.setdefault(point.target, []).append(point)
    x_title = _x_title(points)
    named = len(by_target) > 1
    latency = [
        series
        for target, found in by_target.items()
        for metric in ("ttft", "e2e")
        for percentile in (50, 95)
        if (series := _latency_series(target if named else "", found, metric, percentile)).x
    ]
    exchange = [
        Series(target, *_pairs(found, lambda p: _rate(p), lambda p: _ms(p, "e2e", 50)))
        for target, found in by_target.items()
    ]
    goodput = [
        Series(target, *_pairs(found, lambda p: p.load.value, lambda p: _goodput(p)))
        for target, found in by_target.items()
    ]
    return [
        Plot(f"{title}: latency against load", x_title, "latency [ms]", latency, log_y=True),
        Plot(f"{title}: throughput against latency", "output tokens/s", "E2E, P50 [ms]", exchange),
        Plot(f"{title}: goodput", x_title, "share of requests", goodput),
    ]


def by_kind(points: Sequence[OperatingPoint]) -> list[list[OperatingPoint]]:
    """Points of open loops, closed loops and traces apart: their loads are no common axis."""
    kinds: Mapping[str, list[OperatingPoint]] = {"rate": [], "concurrency": [], "trace": []}
    for point in points:
        kinds[point.load.kind].append(point)
    return [found for found in kinds.values() if found]


def labels(point: OperatingPoint, with_target: bool) -> list[Cell]:
    return [str(point.load), *([point.target] if with_target else [])]


def median(point: OperatingPoint, value: Callable[[Point], float | None]) -> float | None:
    """Median over repeats."""
    found = point.over(value)
    return None if found is None else found.median


def count(point: OperatingPoint, value: Callable[[Point], float | None]) -> Cell:
    """Median over repeats of what is counted: as a whole number where it is one."""
    found = median(point, value)
    return int(found) if found is not None and found.is_integer() else found


def milliseconds(value: Spread | None) -> float | None:
    return None if value is None else value.median * MILLISECONDS


def between(value: Spread | None, scale: float) -> str:
    return "–" if value is None else f"{number(value.low * scale)} – {number(value.high * scale)}"


def _over(repeats: int) -> str:
    return f"Medians over {repeats} repeats. " if repeats > 1 else ""


def _x_title(points: Sequence[OperatingPoint]) -> str:
    kinds = {"rate": "arrivals [requests/s]", "concurrency": "requests at once", "trace": "times as fast as the trace"}
    return kinds[points[0].load.kind] if points else ""


def _latency_series(target: str, points: Sequence[OperatingPoint], metric: str, percentile: int) -> Series:
    found = [(point.load.value, value) for point in points if (value := point.latency(metric, percentile)) is not None]
    name = f"{target} {metric.upper()} P{percentile}".strip()
    return Series(
        name,
        [x for x, _ in found],
        [value.median * MILLISECONDS for _, value in found],
        [value.low * MILLISECONDS for _, value in found],
        [value.high * MILLISECONDS for _, value in found],
    )


Figure = Callable[[OperatingPoint], float | None]


def _pairs(points: Sequence[OperatingPoint], x: Figure, y: Figure) -> tuple[list[float], list[float]]:
    found = [(a, b) for point in points if (a := x(point)) is not None and (b := y(point)) is not None]
    return [a for a, _ in found], [b for _, b in found]


def _ms(point: OperatingPoint, metric: str, percentile: int) -> float | None:
    return milliseconds(point.latency(metric, percentile))


def _rate(point: OperatingPoint) -> float | None:
    return median(point, lambda p: p.metrics.output_rate)


def _goodput(point: OperatingPoint) -> float | None:
    return median(point, lambda p: p.metrics.goodput)
