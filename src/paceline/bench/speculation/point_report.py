"""The report of operating points: ``--method speed-bench``, and everything that is measured at a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from paceline.bench.sections import Cell, Plot, Report, Section, Series
from paceline.bench.speculation import plots
from paceline.bench.speculation import point_tables as tables
from paceline.bench.speculation.calibration import Calibration
from paceline.bench.speculation.measurement import spec_bench_lines
from paceline.bench.speculation.points import Outcome, PointBench
from paceline.bench.speculation.records import counts_json, pass_json
from paceline.bench.speculation.report import calibration_table, spec_bench_table
from paceline.bench.speculation.spread import timing
from paceline.bench.speculation.turns import Pass

MACRO = "A request is a conversation: the steps of all its turns count together. Macro: the mean over requests."
SUMS = (
    "The server tells sums only: acceptance length is 1 + accepted / drafts, over the steps that had a draft; means "
    "over requests are not known."
)


def point_report(
    bench: PointBench,
    title: str,
    command: str,
    settings: Mapping[str, Cell],
    notes: Sequence[str] = (),
    calibration: Calibration | None = None,
    published: bool = False,
) -> Report:
    """``published``: SPEED-Bench's own figures stand beside ours."""
    quiet, noise = bench.guard.verdict()
    told = [
        f"{outcome.split}, {outcome.point.name}: {note}" for outcome in bench.outcomes for note in notes_of(outcome)
    ]
    warnings = list(dict.fromkeys([*notes, *told, noise]))
    return Report(
        title=title,
        command=command,
        sections=_sections(bench.outcomes, calibration, published),
        settings=settings,
        data={
            "run": asdict(bench.settings),
            "quiet": quiet,
            "noise": noise,
            "notes": warnings[:-1],
            "errors": errors(bench),
            "calibration": [] if calibration is None else [entry._asdict() for entry in calibration.bins()],
            "points": [outcome_json(outcome) for outcome in bench.outcomes],
        },
        warnings=warnings,
    )


def errors(bench: PointBench) -> list[str]:
    """What makes the exit status 1."""
    return [error for outcome in bench.outcomes for error in outcome.errors()]


def notes_of(outcome: Outcome) -> list[str]:
    """What passes had to tell, and conversations that the context cut short."""
    notes = [note for passed in (*outcome.on, *outcome.off) for note in passed.notes]
    cut_short = max((passed.cut_short for passed in (*outcome.on, *outcome.off)), default=0)
    if cut_short:
        notes.append(f"{cut_short} conversations ended early, at the end of the context")
    return notes


def _sections(outcomes: Sequence[Outcome], calibration: Calibration | None, published: bool) -> list[Section]:
    sums_only = any(outcome.acceptance().sums_only for outcome in outcomes)
    by_split: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_split.setdefault(outcome.split, []).append(outcome)
    sections = [
        Section("Acceptance length", [SUMS if sums_only else MACRO], [tables.length_table(outcomes, published)])
    ]
    for split, found in by_split.items():
        if len(found[0].categories) > 1:
            lengths = {o.point.name: {c: tables.category_length(o, c) for c in o.categories} for o in found}
            sections.append(
                Section(
                    f"Acceptance length by category, {split}",
                    tables=[tables.category_table(found, published and split == "qualitative")],
                    plots=[plots.category_plot(f"Acceptance length by category, {split}", lengths)],
                )
            )
    counts = {f"{outcome.split}, {outcome.point.name}": outcome.acceptance() for outcome in outcomes}
    sections += [
        Section(
            "Acceptance by position",
            tables=[tables.position_table(outcomes), tables.histogram_table(outcomes)],
            plots=[plots.position_plot(counts), plots.length_plot(counts)],
        ),
        Section("Speed", tables=[tables.speed_table(outcomes, published)], plots=_speed_plots(by_split)),
        Section("Times of requests", tables=[tables.time_table(outcomes)]),
    ]
    measured = [m for outcome in outcomes if (m := outcome.measurement) is not None and outcome.split == "spec_bench"]
    if (spec_bench := spec_bench_table(measured)) is not None:
        sections.append(Section("Spec-Bench's figures, one stream; published: A100, 7B", tables=[spec_bench]))
    if calibration is not None and (table := calibration_table(calibration)) is not None:
        title = "Predicted and realised survival of draft tokens"
        sections.append(Section(title, tables=[table], plots=[plots.calibration_plot(calibration)]))
    return sections


def _speed_plots(by_split: Mapping[str, Sequence[Outcome]]) -> list[Plot]:
    """Speed-up by split, a line a point."""
    lines: dict[str, dict[str, float]] = {}
    for split, outcomes in by_split.items():
        for outcome in outcomes:
            speedup = tables.mean_speedup(outcome)
            if speedup is not None:
                lines.setdefault(outcome.point.name, {})[split] = speedup
    series = [Series(name, list(values), list(values.values())) for name, values in lines.items()]
    title = "Speed-up by drafts (mean user TPS)"
    return [Plot(title, "split", "with / without drafts", series, kind="bar")] if series else []


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Every value of a point."""
    measurement = outcome.measurement
    record: dict[str, Any] = {
        "split": outcome.split,
        **asdict(outcome.point),
        "asked_before": outcome.asked_before,
        "prompts": len(outcome.planned),
        "keys": [one.conversation.key for one in outcome.planned],
        "acceptance": counts_json(outcome.acceptance()),
        "acceptance_by_category": {name: counts_json(outcome.acceptance(name)) for name in outcome.categories},
        "speedup": tables.mean_speedup(outcome),
        "timing_off": _timing_json(outcome.off),
        "timing_on": _timing_json(outcome.on),
        "errors": outcome.errors(),
        "off": [pass_json(passed) for passed in outcome.off],
        "on": [pass_json(passed) for passed in outcome.on],
    }
    if measurement is not None:
        speedup = measurement.speedup
        record["speedup_of_medians"] = None if speedup is None else asdict(speedup)
        if measurement.load == 1:
            record["spec_bench"] = [asdict(line) for line in spec_bench_lines(measurement)]
    return record


def _timing_json(passes: Sequence[Pass]) -> dict[str, Any]:
    return asdict(timing(passes))
