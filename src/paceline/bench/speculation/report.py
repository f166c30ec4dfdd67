"""The tables of ``paceline bench spec``."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.bench.report import number, quartiles
from paceline.bench.sections import Cell, Table
from paceline.bench.speculation.calibration import Calibration
from paceline.bench.speculation.goals import Verdict
from paceline.bench.speculation.measurement import Measurement, spec_bench_lines
from paceline.bench.speculation.published import SPEC_BENCH
from paceline.bench.statistics import Summary, quantile

POSITIONS = 6  # draft positions that the table shows; the JSON has all

SPEED_COLUMNS = (
    "set", "load", "prompts", "turns", "speed-up (user TPS)", "user TPS off → on", "pooled", "output tokens/s off → on",
    "on / off", "while full off → on", "on / off", "tokens while full", "same texts",
)  # fmt: skip
ACCEPTANCE_COLUMNS = (
    "set", "load", "AL macro", "AL micro", "with prefill: macro", "micro", "accepted / drafted",
    "steps with a draft", "joint acceptance by position", "conditional", "drafting and control",
)  # fmt: skip
DRAFTER_COLUMNS = ("set", "load", "drafter", "drafted", "accepted", "rate", "share of output tokens")
GOAL_COLUMNS = ("target", "measured at", "value", "limit", "met")


def speed_table(measurements: Sequence[Measurement]) -> Table:
    """Speeds without and with drafts: medians, and ratios of medians with the quartiles of single ratios."""
    return Table("", SPEED_COLUMNS, [_speed_row(measurement) for measurement in measurements])


def _speed_row(measurement: Measurement) -> list[Cell]:
    off, on = measurement.user_rates()
    full_off, full_on = measurement.full_rates()
    output_off, output_on = ([p.output_rate for p in passes] for passes in (measurement.off, measurement.on))
    differing = len(measurement.differences())
    return [
        measurement.workload,
        measurement.load,
        len(measurement.planned),
        len(measurement.off[0].turns),
        _ratio(measurement.speedup),
        _change(off, on),
        _ratio(measurement.pooled_speedup),
        _change(output_off, output_on),
        _ratio(measurement.output_speedup),
        _change(full_off, full_on),
        _ratio(measurement.full_speedup),
        f"{measurement.full_share:.0%}",
        "all" if not differing else f"{differing} DIFFER",
    ]


def acceptance_table(measurements: Sequence[Measurement]) -> Table:
    """SPEED-Bench's acceptance lengths and rates, and what drafting cost."""
    rows: list[list[Cell]] = []
    for measurement in measurements:
        counts = measurement.acceptance()
        rows.append(
            [
                measurement.workload,
                measurement.load,
                counts.macro,
                counts.micro,
                counts.macro_with_prefill,
                counts.micro_with_prefill,
                _share(counts.rate),
                _share(counts.drafted_steps / counts.steps if counts.steps else None),
                _positions(counts.joint),
                _positions(counts.conditional),
                f"{measurement.drafting_share:.1%}",
            ]
        )
    return Table("", ACCEPTANCE_COLUMNS, rows)


def drafter_table(measurements: Sequence[Measurement]) -> Table | None:
    """Who drafted, and how well; None when nobody did."""
    rows: list[list[Cell]] = []
    for measurement in measurements:
        counts, tokens = measurement.acceptance(), sum(passed.tokens for passed in measurement.on)
        for drafter, drafted in counts.drafted.most_common():
            accepted = counts.accepted[drafter]
            row: list[Cell] = [measurement.workload, measurement.load, drafter, drafted, accepted]
            rows.append([*row, _share(accepted / drafted if drafted else None), _share(accepted / tokens)])
    return Table("", DRAFTER_COLUMNS, rows) if rows else None


def spec_bench_table(measurements: Sequence[Measurement]) -> Table | None:
    """Spec-Bench's figures beside published ones, of what was measured with one stream; None when nothing was."""
    measured = [(m.workload, line) for m in measurements if m.load == 1 for line in spec_bench_lines(m)]
    if not measured:
        return None
    rows: list[list[Cell]] = []
    for workload, line in measured:
        published = [
            p.speedup if (workload, line.category) == ("spec_bench", "overall") else p.speedups.get(line.category)
            for p in SPEC_BENCH
        ]
        title = workload if line.category == workload else f"{workload}: {line.category}"
        rows.append([title, line.questions, line.speedup, line.mean_accepted_tokens, *published])
    accepted = [p.mean_accepted_tokens for p in SPEC_BENCH]
    rows.append(["mean accepted tokens, published", None, None, None, *accepted])
    header = ("set: category", "questions", "speed-up (Spec-Bench)", "mean accepted tokens")
    return Table("", [*header, *(p.method for p in SPEC_BENCH)], rows)


def goal_table(verdicts: Sequence[Verdict]) -> Table | None:
    rows: list[list[Cell]] = [[v.title, v.where, v.value, v.text, "yes" if v.met else "NO"] for v in verdicts]
    return Table("", GOAL_COLUMNS, rows) if rows else None


def calibration_table(calibration: Calibration) -> Table | None:
    """Predicted and realised survival of draft tokens; None when the engine tells nothing."""
    bins = calibration.bins()
    if not bins:
        return None
    rows: list[list[Cell]] = [[b.name, f"{b.predicted:.3f}", f"{b.realised:.3f}", b.tokens] for b in bins]
    note = f"expected calibration error {calibration.error:.3f}"
    return Table("", ("bin", "predicted", "realised", "draft tokens"), rows, note)


def prediction_table(measurements: Sequence[Measurement]) -> Table | None:
    """The engine's own guesses beside what was measured; None when it makes none."""
    rows: list[list[Cell]] = []
    for measurement in measurements:
        believed, predicted = measurement.believed_speedup, measurement.predicted_share
        if believed is not None or predicted is not None:
            output = measurement.output_speedup.median
            rows.append([measurement.workload, measurement.load, predicted, believed, output])
    header = ("set", "load", "predicted / realised step time", "believed speed-up", "measured (output tokens/s)")
    return Table("", header, rows) if rows else None


def _ratio(summary: Summary | None) -> str | None:
    return None if summary is None else f"{number(summary.median)} ({quartiles(summary)})"


def _change(off: Sequence[float], on: Sequence[float]) -> str | None:
    """Both medians; nothing where one is missing (the places were never all taken)."""
    return f"{number(quantile(off, 0.5))} → {number(quantile(on, 0.5))}" if off and on else None


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def _positions(shares: Sequence[float]) -> str | None:
    more = " …" if len(shares) > POSITIONS else ""
    return " ".join(f"{share:.2f}" for share in shares[:POSITIONS]) + more if shares else None
