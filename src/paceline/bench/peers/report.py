"""The table of ``paceline bench peers`` and the JSON that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.bench.peers.goals import Engines, Measurements, Verdict
from paceline.bench.peers.scenarios import Metric
from paceline.bench.report import markdown_table, number, quartiles, summary_json
from paceline.bench.statistics import compare, summarize

COLUMNS = ("measured", "engine", "median", "quartiles", "Paceline / engine", "target", "met")


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
