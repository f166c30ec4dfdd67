"""The report of sets measured in an engine of the bench's own: ``--method sets`` and ``spec-bench``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from paceline.bench.sections import Cell, Plot, Report, Section, Table
from paceline.bench.speculation import plots
from paceline.bench.speculation import report as tables
from paceline.bench.speculation.acceptance import acceptance_of_conversations
from paceline.bench.speculation.goals import judge_all
from paceline.bench.speculation.measurement import Measurement
from paceline.bench.speculation.records import measurement_json, verdicts_json
from paceline.bench.speculation.run import SpeculationBench


def sets_report(bench: SpeculationBench, command: str, title: str, prefix_cache: bool) -> Report:
    """What the run found, with the JSON keys of ``docs/benchmarks.md``."""
    settings, ready = bench.settings, bench.session.ready
    quiet, noise = bench.guard.verdict()
    shown: dict[str, Cell] = {
        "model": ready.model,
        "backend": ready.backend,
        "drafters": ", ".join(ready.drafters) or "none, so both are plain decoding",
        "prompts from": str(bench.data or "a grammar"),
        "as": "chat template" if bench.session.tokenizer.has_chat_template else "plain text (no chat template)",
        "loads": ", ".join(map(str, settings.loads)),
        "rounds": settings.rounds,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "adapter": settings.adapter,
        "prefix cache": "on" if prefix_cache else "off",
        "before each pass": bench.session.way,
    }
    return Report(
        title=title,
        command=command,
        sections=sections(bench),
        settings=shown,
        data=data(bench, {"prefix_cache": prefix_cache, "quiet": quiet, "noise": noise}),
        warnings=[*bench.notes, noise],
    )


def sections(bench: SpeculationBench) -> list[Section]:
    """Tables and plots; those without a value are left out."""
    measurements, calibration = bench.measurements, bench.calibration
    counts = {m.workload: m.acceptance() for m in reversed(measurements)}  # of each set at its first load
    counts = dict(reversed(counts.items()))
    by_load = {
        f"{load} at a time": {m.workload: m.acceptance().macro for m in measurements if m.load == load}
        for load in bench.settings.loads
    }
    acceptance_plots = [
        plots.category_plot("Acceptance length by set (macro)", by_load, "set"),
        *(
            [plots.category_plot("Acceptance length by category (macro)", found)]
            if (found := categories(bench))
            else []
        ),
        plots.position_plot(counts),
        plots.length_plot(counts),
    ]
    verdicts = judge_all(measurements) if bench.settings.temperature == 0 else []
    calibrated = [plots.calibration_plot(calibration)] if calibration.bins() else []
    candidates: list[tuple[str, Table | None, list[Plot]]] = [
        ("Speed", tables.speed_table(measurements), [plots.speedup_plot(measurements)]),
        ("Acceptance, with drafts on", tables.acceptance_table(measurements), acceptance_plots),
        ("Drafters", tables.drafter_table(measurements), []),
        ("Spec-Bench's figures, one stream; published: A100, 7B", tables.spec_bench_table(measurements), []),
        ("Predicted and realised survival of draft tokens", tables.calibration_table(calibration), calibrated),
        ("Predicted and realised time", tables.prediction_table(measurements), []),
        ("Targets", tables.goal_table(verdicts), []),
    ]
    return [Section(title, tables=[table], plots=found) for title, table, found in candidates if table is not None]


def categories(bench: SpeculationBench) -> dict[str, dict[str, float]]:
    """Acceptance length of each category of the sets that have several, at each set's first load."""
    found: dict[str, dict[str, float]] = {}
    for measurement in bench.measurements:
        names = dict.fromkeys(planned.conversation.category for planned in measurement.planned)
        if len(names) > 1 and measurement.workload not in found:
            found[measurement.workload] = {name: category_length(measurement, name) for name in sorted(names)}
    return found


def category_length(measurement: Measurement, category: str) -> float:
    """SPEED-Bench's category AL: the mean over the category's conversations."""
    chosen = {i for i, planned in enumerate(measurement.planned) if planned.conversation.category == category}
    passes = [{key: turn for key, turn in passed.turns.items() if key[0] in chosen} for passed in measurement.on]
    return acceptance_of_conversations(passes).macro


def errors(measurements: Sequence[Measurement], greedy: bool) -> list[str]:
    """What makes the exit status 1: greedy texts that differ, and counters that are wrong."""
    differences = [text for measurement in measurements for text in measurement.differences()] if greedy else []
    return differences + [text for measurement in measurements for text in measurement.miscounts()]


def data(bench: SpeculationBench, more: dict[str, Any]) -> dict[str, Any]:
    """Every value, for the JSON file."""
    ready, greedy = bench.session.ready, bench.settings.temperature == 0
    return {
        "model": ready.model,
        "backend": ready.backend,
        "drafters": ready.drafters,
        "choices": {choice.name: choice.value for choice in ready.choices},
        "data": str(bench.data) if bench.data else None,
        "run": asdict(bench.settings),
        "forgetting": bench.session.way,
        **more,
        "errors": errors(bench.measurements, greedy),
        "notes": bench.notes,
        "calibration": [entry._asdict() for entry in bench.calibration.bins()],
        "measurements": [measurement_json(measurement) for measurement in bench.measurements],
        "targets": verdicts_json(judge_all(bench.measurements)) if greedy else [],
    }
