"""What ``paceline bench peers`` found, as tables and bars, and every value for the JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.bench.peers import scenarios
from paceline.bench.peers.comparison import Comparison
from paceline.bench.peers.goals import GOALS, Engines, Measurements, Verdict, judge_all
from paceline.bench.peers.scenarios import Metric
from paceline.bench.report import summary_json
from paceline.bench.sections import Cell, Plot, Report, Section, Series, Table
from paceline.bench.statistics import Summary, compare, summarize

QUARTILES_NOTE = (
    "Medians and quartiles over the rounds. Paceline / engine: ratio of the medians, with the quartiles of the ratios "
    "of single rounds, in which slow drifts of the machine cancel."
)

#: Title, unit and metrics of each plot: what has one unit and one size.
PLOTS: tuple[tuple[str, str, tuple[Metric, ...]], ...] = (
    (
        "Decode speed, one stream",
        "tokens/s",
        (scenarios.DECODE_350, scenarios.DECODE_120, scenarios.DECODE_50, scenarios.BUSY),
    ),
    ("Output of 16 at once", "tokens/s", (scenarios.BATCH_16,)),
    ("Time to first token", "s", (scenarios.TTFT_350,)),
    ("Start to first token", "s", (scenarios.START,)),
    ("Memory", "MB", (scenarios.MEMORY_RSS, scenarios.MEMORY_PSS)),
    ("A token of a whole request", "ms", (scenarios.TOKEN_COST,)),
)


def peers_report(comparison: Comparison, command: str, settings: Mapping[str, Cell], skipped: Sequence[str]) -> Report:
    """``settings``: what the command knows of the run; ``skipped``: why peers took no part."""
    engines, values = comparison.engines(), comparison.values
    verdicts = judge_all(values, engines)
    quiet, noise = comparison.guard.verdict()
    failures = [f"{name} failed and took no further part: {why}" for name, why in comparison.failures.items()]
    sections = [
        Section(
            "Engines beside each other",
            [f"Not measured: {'; '.join(skipped)}."] if skipped else [],
            [comparison_table(comparison.metrics, values, engines)],
            comparison_plots(values),
        ),
        *([Section("Targets", tables=[verdicts_table(verdicts)])] if verdicts else []),
        Section("How the engines were started", tables=[_commands(comparison)]),
    ]
    data = {
        "rounds": comparison.rounds,
        "engines": {target.name: target.command for target in comparison.targets},
        "prompts": comparison.prompts.description,
        "quiet": quiet,
        "noise": noise,
        "failures": comparison.failures,
        "skipped": list(skipped),
        "measurements": measurements_json(values),
        "targets": verdicts_json(verdicts),
    }
    warnings = [*([] if quiet else [noise]), *failures]
    return Report("paceline bench peers", command, sections, {**settings, "noise": noise}, data, warnings)


def comparison_table(metrics: Sequence[Metric], measurements: Measurements, engines: Engines) -> Table:
    """A row for each engine under each metric: median, quartiles, and Paceline's ratio to it."""
    columns = ("measured", "engine", "median", "q1", "q3", "Paceline / engine", "ratio q1", "ratio q3")
    rows: list[list[Cell]] = []
    for metric in metrics:
        values = measurements.get(metric.key, {})
        own = values.get(engines.own)
        for engine, samples in values.items():
            ratio = compare(own, samples) if own and engine != engines.own else None
            summary = summarize(samples)
            rows.append([_title(metric), engine, summary.median, *_quartiles(summary), *_ratio(ratio)])
    return Table("", columns, rows, QUARTILES_NOTE)


def _title(metric: Metric) -> str:
    return f"{metric.title} [{metric.unit}]"


def _ratio(ratio: Summary | None) -> list[Cell]:
    return [None, None, None] if ratio is None else [ratio.median, *_quartiles(ratio)]


def _quartiles(summary: Summary) -> list[Cell]:
    """None of a single round."""
    return [summary.q1, summary.q3] if summary.count > 1 else [None, None]


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """What Paceline promises, and whether this run kept it."""
    rows: list[list[Cell]] = [
        [_title(v.metric), v.text, v.engine, v.value.median, *_quartiles(v.value), "yes" if v.met else "NO"]
        for v in verdicts
    ]
    columns = ("measured", "target", "engine", "value", "q1", "q3", "met")
    return Table("", columns, rows, "Value: Paceline's own, or its ratio to the engine named beside it.")


def comparison_plots(measurements: Measurements) -> list[Plot]:
    """Bars by metric and engine, with quartiles; the limits that Paceline promises to keep are dashed."""
    plots = []
    for title, unit, metrics in PLOTS:
        measured = [metric for metric in metrics if measurements.get(metric.key)]
        engines = list(dict.fromkeys(engine for metric in measured for engine in measurements[metric.key]))
        series = [_bars(engine, measured, measurements) for engine in engines]
        limits = [(m.title, goal.limit) for m in measured for goal in GOALS if goal.metric == m and not goal.against]
        if limits and series:
            names, values = zip(*limits, strict=True)
            series.append(Series("target of Paceline", names, values, limit=True))
        if series:
            better = "higher" if measured[0].higher_is_better else "lower"
            plots.append(Plot(title, "", f"[{unit}], {better} is better", series, kind="bar"))
    return plots


def _bars(engine: str, metrics: Sequence[Metric], measurements: Measurements) -> Series:
    measured = [metric for metric in metrics if engine in measurements[metric.key]]
    summaries = [summarize(measurements[metric.key][engine]) for metric in measured]
    return Series(
        engine,
        [metric.title for metric in measured],
        [summary.median for summary in summaries],
        [summary.q1 for summary in summaries],
        [summary.q3 for summary in summaries],
    )


def _commands(comparison: Comparison) -> Table:
    rows = [[target.name, " ".join(target.command).replace("{port}", "PORT")] for target in comparison.targets]
    return Table("", ("engine", "command"), rows)


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
