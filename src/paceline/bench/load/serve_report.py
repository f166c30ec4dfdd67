"""The report of ``paceline bench serve``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.bench.load.points import OperatingPoint, Point, operating_points
from paceline.bench.load.sweep import Sweep
from paceline.bench.load.tables import (
    by_kind,
    error_table,
    latency_table,
    load_plots,
    server_table,
    throughput_table,
)
from paceline.bench.load.workloads import Workload
from paceline.bench.sections import Cell, Report, Section

SHOWN_LATE = 3
FEW = 100  # requests; below, the 99th percentile is about the slowest one


def serve_report(sweep: Sweep, command: str) -> Report:
    """Everything that one server's sweep found."""
    points = operating_points(sweep.points)
    target = sweep.targets[0]
    sections = [_section(sweep, workload, points) for workload in sweep.workloads]
    errors = error_table(sweep.points)
    if errors is not None:
        sections.append(Section("Errors", tables=[errors]))
    return Report(
        f"Load on {target.name}",
        command,
        [section for section in sections if section.tables],
        settings={"server": target.name, "model": target.model, **settings_of(sweep)},
        data=data_of(sweep),
        warnings=warnings_of(sweep),
    )


def _section(sweep: Sweep, workload: Workload, points: Sequence[OperatingPoint]) -> Section:
    mine = [point for point in points if point.workload == workload.name]
    if not mine:
        return Section(workload.name)
    tables = [latency_table(mine, False), throughput_table(mine, sweep.settings, False), server_table(mine, False)]
    return Section(
        f"{workload.name}: {workload.title}",
        text=section_text(sweep, workload, mine),
        tables=[table for table in tables if table is not None],
        plots=[plot for found in by_kind(mine) for plot in load_plots(found, workload.name)],
    )


def section_text(sweep: Sweep, workload: Workload, points: Sequence[OperatingPoint]) -> list[str]:
    """What a reader must know of a workload's figures."""
    text = list(workload.notes())
    skipped: dict[tuple[str, str], list[str]] = {}
    for entry in sweep.skipped:
        if entry.workload == workload.name:
            skipped.setdefault((entry.target, entry.why), []).append(str(entry.load))
    for (target, why), loads in skipped.items():
        text.append(f"{target} was not measured at {', '.join(loads)}: {why}.")
    few = min((max(point.metrics.requests for point in entry.points) for entry in points), default=FEW)
    if few < FEW:
        text.append(f"Points have as few as {few} requests a repeat: P99 of fewer than {FEW} is about the slowest one.")
    return text


def settings_of(sweep: Sweep) -> dict[str, Cell]:
    """What figures depend on, for the top of a report."""
    settings = sweep.settings
    target = sweep.targets[0]
    found: dict[str, Cell] = {
        "API": target.api,
        "arrivals": settings.process if any(load.kind == "rate" for w in sweep.workloads for load in w.loads) else None,
        "arrivals end after [s]": settings.duration,
        "requests of a point": settings.requests,
        "repeats": settings.repeats,
        "answers end": "at the longest length (end-of-sequence ignored)" if settings.ignore_eos else "by themselves",
        "temperature": f"{settings.temperature:g}",
        "seed": settings.seed,
        "latency target": str(settings.goodput),
        "$ an hour": settings.dollars_per_hour,
    }
    return {name: value for name, value in found.items() if value is not None}


def data_of(sweep: Sweep) -> dict[str, Any]:
    """Every value of every point, for the JSON file."""
    dollars = sweep.settings.dollars_per_hour
    quiet, noise = sweep.guard.verdict()
    return {
        "targets": [_target(target) for target in sweep.targets],
        "points": [_without_texts(point.to_json(dollars)) for point in sweep.points],
        "skipped": [
            {"target": s.target, "workload": s.workload, "load": str(s.load), "why": s.why} for s in sweep.skipped
        ],
        "failures": sweep.failures,
        "interrupted": sweep.interrupted,
        "notes": [note for workload in sweep.workloads for note in workload.notes()],
        "quiet": quiet if sweep.guard.readings else None,
        "noise": noise,
    }


def _where(point: Point) -> str:
    return f"{point.target}, {point.workload}, {point.load}, repeat {point.repeat + 1}"


def _target(target: Any) -> Mapping[str, Any]:
    return {
        "name": target.name,
        "url": target.endpoint.url if target.endpoint is not None and not target.owned else None,
        "command": target.server.command if target.server is not None else None,
        "model": target.model,
        "api": target.api,
        "context": target.context,
        "notes": target.notes,
    }


def _without_texts(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "texts"}


def warnings_of(sweep: Sweep) -> list[str]:
    """Why figures should not be quoted."""
    warnings = []
    if sweep.interrupted:
        warnings.append("STOPPED before its end: these are the points that were measured until then.")
    warnings += [note for target in sweep.targets for note in target.notes]
    for name, why in sweep.failures.items():
        warnings.append(f"{name} FAILED: {why}")
    late = [f"{_where(point)}: {point.late}" for point in sweep.points if point.late]
    if late:
        more = f"; and {len(late) - SHOWN_LATE} more" if len(late) > SHOWN_LATE else ""
        warnings.append(
            f"INVALID: the client was late at {len(late)} of {len(sweep.points)} points, so it measured itself, too; "
            f"use a quieter machine. {'; '.join(late[:SHOWN_LATE])}{more}"
        )
    for point in sweep.points:
        if point.problem and point.target not in sweep.failures:
            warnings.append(f"BROKEN OFF, left out: {_where(point)}: {point.problem}")
    uncounted = sum(point.metrics.uncounted for point in sweep.points)
    if uncounted:
        warnings.append(
            f"{uncounted} answers came without usage: their tokens are counted as chunks, which is too few when a "
            "chunk holds several"
        )
    if sweep.guard.readings:
        quiet, noise = sweep.guard.verdict()
        warnings += [] if quiet else [noise]
    elif sweep.points:
        warnings.append("No reading of the machine's noise: a server that was not started here cannot be suspended.")
    return warnings
