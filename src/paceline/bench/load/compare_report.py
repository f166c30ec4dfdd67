"""The report of ``paceline bench compare``: who is fastest where, by how much, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.bench.load.points import OperatingPoint, cost, operating_points
from paceline.bench.load.serve_report import data_of, section_text, settings_of, warnings_of
from paceline.bench.load.shares import (
    FAILED_LIMIT,
    METRICS,
    PERCENTILES,
    counts,
    latency_ratio,
    latency_values,
    same_texts,
    shares,
)
from paceline.bench.load.sweep import Sweep
from paceline.bench.load.tables import (
    by_kind,
    error_table,
    labels,
    latency_table,
    load_plots,
    median,
    milliseconds,
    server_table,
    throughput_table,
)
from paceline.bench.load.workloads import Workload
from paceline.bench.report import number, quartiles
from paceline.bench.sections import Cell, Plot, Report, Section, Series, Table
from paceline.bench.statistics import Summary

PAIRS = tuple((metric, percentile) for metric in METRICS for percentile in PERCENTILES)
FAIRNESS = (
    "Targets take turns point by point, and who begins changes with every point. All get the same requests in the same "
    "order at the same times. A prompt is sent once to each target, and each repeat has prompts of its own, so that no "
    "prefix cache and no drafter has seen it before: only what prompts have in common can be remembered."
)
LENGTH_LIMIT = 0.05  # by which mean answers may differ before E2E compares different work


def compare_report(sweep: Sweep, command: str) -> Report:
    """Everything that a run over several targets found."""
    measured = operating_points(sweep.points)
    names = [target.name for target in sweep.targets]
    sections = [_fastest(measured, names)]
    for workload in sweep.workloads:
        mine = [point for point in measured if point.workload == workload.name]
        if mine:
            sections.append(_workload(sweep, workload, mine, names))
    costs = _costs(sweep, measured)
    sections += [] if costs is None else [costs]
    errors = error_table(sweep.points)
    if errors is not None:
        sections.append(Section("Errors", tables=[errors]))
    return Report(
        f"{' against '.join(names)}",
        command,
        sections,
        settings={"ratios to": names[0], **settings_of(sweep)},
        data={**data_of(sweep), "fastest": _shares_json(measured, names)},
        warnings=[*warnings_of(sweep), *_lengths(measured)],
    )


def _fastest(measured: Sequence[OperatingPoint], names: Sequence[str]) -> Section:
    """The share of operating points at which each target had the lowest latency."""
    rows: list[list[Cell]] = []
    by_pair = {pair: shares(latency_values(measured, names, *pair), names) for pair in PAIRS}
    everything = [values for pair in PAIRS for values in latency_values(measured, names, *pair)]
    overall = shares(everything, names)
    for name in names:
        cells: list[Cell] = [by_pair[pair][name].share for pair in PAIRS]
        rows.append([name, *cells, overall[name].share, f"{overall[name].won} of {overall[name].points}"])
    columns = ["target", *(_title(*pair) for pair in PAIRS), "all", "lowest at"]
    note = (
        "Share of operating points (scenario x load x percentile) at which a target had the lowest latency, medians "
        f"over repeats. A target that failed more than {FAILED_LIMIT:.0%} of the requests of a point, or was not "
        "measured there, does not have it; points where the client was late are left out."
    )
    late = {(point.workload, str(point.load)) for point in measured if not point.valid}
    text = [FAIRNESS]
    if late:
        text.append(f"Left out, since the client was late: {'; '.join(', '.join(point) for point in sorted(late))}.")
    series = [
        Series(name, [_title(*pair) for pair in PAIRS], [by_pair[pair][name].share or 0.0 for pair in PAIRS])
        for name in names
    ]
    plot = Plot("Lowest latency", "", "share of operating points", series, kind="bar")
    return Section("Who is fastest", text, tables=[Table("Lowest latency", columns, rows, note)], plots=[plot])


def _shares_json(measured: Sequence[OperatingPoint], names: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """[won, points] by metric and target."""
    return {
        f"{metric}_p{percentile}": {
            name: [share.won, share.points]
            for name, share in shares(latency_values(measured, names, metric, percentile), names).items()
        }
        for metric, percentile in PAIRS
    }


def _workload(sweep: Sweep, workload: Workload, mine: Sequence[OperatingPoint], names: Sequence[str]) -> Section:
    ordered = sorted(mine, key=lambda p: (workload.loads.index(p.load), names.index(p.target)))
    tables = [
        _ratio_table(ordered, names[0], greedy=sweep.settings.temperature == 0),
        throughput_table(ordered, sweep.settings, True),
        server_table(ordered, True),
        latency_table(ordered, True),
    ]
    return Section(
        f"{workload.name}: {workload.title}",
        text=section_text(sweep, workload, ordered),
        tables=[table for table in tables if table is not None],
        plots=[plot for found in by_kind(ordered) for plot in load_plots(found, workload.name)],
    )


def _ratio_table(points: Sequence[OperatingPoint], first: str, greedy: bool) -> Table:
    """Latencies of each target and their ratios to the first one's."""
    columns = ["load", "target"]
    for pair in PAIRS:
        columns += [f"{_title(*pair)} [ms]", "x"]
    columns += ["same texts"] if greedy else []
    references = {str(point.load): point for point in points if point.target == first}
    rows = []
    for point in points:
        row: list[Cell] = labels(point, True)
        reference = references.get(str(point.load))
        for pair in PAIRS:
            ratio = None if reference is None else latency_ratio(point, reference, *pair)
            row += [milliseconds(point.latency(*pair)), _ratio(ratio) if point is not reference else ""]
        if greedy:
            same = None if reference is None or point is reference else same_texts(point, reference)
            row.append("" if point is reference else same)
        rows.append(row if counts(point) else [*row[:1], f"{point.target} (errors)", *row[2:]])
    note = (
        f"x: ratio to {first}, of medians, with the quartiles of the repeats' ratios; below 1 is faster than {first}."
    )
    note += " Same texts: share of answers that are the same, letter by letter." if greedy else ""
    return Table(f"Against {first}", columns, rows, note)


def _ratio(ratio: Summary | None) -> str:
    if ratio is None:
        return "–"
    return f"{number(ratio.median)} ({quartiles(ratio)})" if ratio.count > 1 else number(ratio.median)


def _costs(sweep: Sweep, measured: Sequence[OperatingPoint]) -> Section | None:
    """$ a million output tokens where each target put out most; None without a price."""
    dollars = sweep.settings.dollars_per_hour
    if dollars is None:
        return None
    rows: list[list[Cell]] = []
    for workload in sweep.workloads:
        for target in sweep.targets:
            mine = [point for point in measured if (point.workload, point.target) == (workload.name, target.name)]
            best = max(mine, key=_output_rate, default=None)
            if best is None:
                continue
            row: list[Cell] = [workload.name, target.name, str(best.load), _output_rate(best)]
            row += [
                cost(_output_rate(best), dollars),
                cost(median(best, lambda p: p.metrics.token_rate) or 0.0, dollars),
            ]
            rows.append([*row, median(best, lambda p: p.metrics.goodput)])
    columns = ["scenario", "target", "at", "output tokens/s", "$ / 1M output tokens", "$ / 1M tokens, in and out"]
    note = (
        f"At {dollars:g} $ an hour, at the load where the target put out most tokens a second: below its limit, a "
        "server costs what its load makes it cost."
    )
    return Section("Cost", tables=[Table("Cost", [*columns, "goodput"], rows, note)])


def _output_rate(point: OperatingPoint) -> float:
    return median(point, lambda p: p.metrics.output_rate) or 0.0


def _lengths(measured: Sequence[OperatingPoint]) -> list[str]:
    """Warnings about points whose answers had different lengths."""
    groups: dict[tuple[str, str], list[float]] = {}
    for point in measured:
        length = median(point, lambda p: p.metrics.output_tokens)
        if length and counts(point):
            groups.setdefault((point.workload, str(point.load)), []).append(length)
    uneven = [
        f"{name}, {load}" for (name, load), found in groups.items() if max(found) > (1 + LENGTH_LIMIT) * min(found)
    ]
    if not uneven:
        return []
    return [
        f"Answers of the targets differ in length by more than {LENGTH_LIMIT:.0%} at {'; '.join(uneven)}: their E2E is "
        "that of different work (--ignore-eos makes lengths equal)"
    ]


def _title(metric: str, percentile: int) -> str:
    return f"{metric.upper()} P{percentile}"
