"""The tables that are printed and the JSON that is kept."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from paceline.bench.goals import Engines, Measurements, Verdict
from paceline.bench.scenarios import Metric
from paceline.bench.statistics import Summary, compare, summarize

COLUMNS = ("measured", "engine", "median", "quartiles", "Paceline / engine", "target", "met")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def quartiles(summary: Summary) -> str:
    return f"{number(summary.q1)} – {number(summary.q3)}" if summary.count > 1 else "one round"


def comparison_table(
    metrics: Sequence[Metric], measurements: Measurements, engines: Engines, verdicts: Sequence[Verdict]
) -> str:
    """One line for each engine under each metric: median, quartiles, Paceline's ratio to it with the quartiles of the
    rounds' ratios, the target if this line has one, and whether it was met."""
    rows = []
    for metric in metrics:
        values = measurements.get(metric.key, {})
        own = values.get(engines.own)
        for index, (engine, samples) in enumerate(values.items()):
            summary = summarize(samples)
            ratio = ""
            if own and engine != engines.own:
                against = compare(own, samples)
                ratio = f"{number(against.median)} ({quartiles(against)})"
            goals = [verdict for verdict in verdicts if verdict.metric == metric and verdict.engine == engine]
            title = f"{metric.title} [{metric.unit}]" if index == 0 else ""
            rows.append(
                [
                    title,
                    engine,
                    number(summary.median),
                    quartiles(summary),
                    ratio,
                    "; ".join(goal.text for goal in goals),
                    "; ".join("yes" if goal.met else "NO" for goal in goals),
                ]
            )
    return markdown_table(COLUMNS, rows)


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": affinity,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "paceline": version("paceline"),
        "torch": version("torch"),
    }


def version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def summary_json(values: Sequence[float]) -> dict[str, Any]:
    """Values with their summary, for the JSON report."""
    summary = summarize(values)
    return {"median": summary.median, "q1": summary.q1, "q3": summary.q3, "values": list(values)}


def measurements_json(measurements: Measurements) -> dict[str, Any]:
    return {
        key: {engine: summary_json(values) for engine, values in by_engine.items()}
        for key, by_engine in measurements.items()
    }


def verdicts_json(verdicts: Sequence[Verdict]) -> list[Mapping[str, Any]]:
    return [
        {
            "metric": verdict.metric.key,
            "engine": verdict.engine,
            "target": verdict.text,
            "value": verdict.value.median,
            "q1": verdict.value.q1,
            "q3": verdict.value.q3,
            "met": verdict.met,
        }
        for verdict in verdicts
    ]
