"""Tables of operating points: acceptance, speed, times."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.bench.report import number, quartiles
from paceline.bench.sections import Cell, Table
from paceline.bench.speculation.points import Outcome
from paceline.bench.speculation.published import SPEED_BENCH_LENGTHS, SPEED_BENCH_SPEEDUPS
from paceline.bench.speculation.spread import Spread, timing
from paceline.bench.statistics import Summary, quantile

POSITIONS = 8  # columns; the JSON has all

LENGTH_COLUMNS = (
    "split", "concurrency", "T", "draft length", "requests", "AL macro", "AL micro", "with prefill: macro", "micro",
    "steps", "steps with a draft", "accepted / drafted",
)  # fmt: skip
SPEED_COLUMNS = (
    "split", "concurrency", "T", "draft length", "output TPS off", "on", "user TPS off (mean)", "on",
    "speed-up (means)", "speed-up (medians, quartiles of turns)", "same answers",
)  # fmt: skip
TIME_COLUMNS = (
    "split", "concurrency", "T", "draft length", "drafts", "of", "min", "mean", "std", "q1", "median", "q3", "max",
)  # fmt: skip


def where(outcome: Outcome) -> list[Cell]:
    """The first four columns."""
    point = outcome.point
    length: Cell = "as decided" if point.draft_length is None else point.draft_length
    if outcome.asked_before:
        length = f"{length} (asked before)"
    return [outcome.split, point.concurrency, f"{point.temperature:g}", length]


def length_table(outcomes: Sequence[Outcome], published: bool) -> Table:
    """Acceptance lengths over all requests of a split."""
    rows: list[list[Cell]] = []
    for outcome in outcomes:
        counts = outcome.acceptance()
        known = not counts.sums_only
        rows.append(
            [
                *where(outcome),
                len(outcome.planned),
                counts.macro if known else None,
                counts.micro,
                counts.macro_with_prefill if known else None,
                counts.micro_with_prefill if known else None,
                counts.steps,
                _share(counts.drafted_steps / counts.steps) if counts.drafted_steps and counts.steps else None,
                _share(counts.rate),
            ]
        )
    note = (
        f"Published overall, macro: {SPEED_BENCH_LENGTHS.overall} ({SPEED_BENCH_LENGTHS.where})." if published else ""
    )
    return Table("", LENGTH_COLUMNS, rows, note)


def category_table(outcomes: Sequence[Outcome], published: bool) -> Table:
    """Acceptance length of each category (rows) at each point (columns), of one split."""
    header = ["category", "requests", *(outcome.point.name for outcome in outcomes)]
    rows: list[list[Cell]] = []
    for category in outcomes[0].categories:
        requests = sum(one.conversation.category == category for one in outcomes[0].planned)
        row: list[Cell] = [category, requests, *(category_length(outcome, category) for outcome in outcomes)]
        rows.append([*row, SPEED_BENCH_LENGTHS.by_category.get(category)] if published else row)
    if published:
        header.append("published")
    return Table("", header, rows, f"Published: {SPEED_BENCH_LENGTHS.where}." if published else "")


def category_length(outcome: Outcome, category: str) -> float:
    """The mean over the category's requests; of a server's counters, 1 + accepted / drafts."""
    counts = outcome.acceptance(category)
    return counts.micro if counts.sums_only else counts.macro


def position_table(outcomes: Sequence[Outcome]) -> Table:
    """Joint and conditional acceptance by position in the draft."""
    header = ["split", "concurrency", "T", "draft length", "acceptance", *map(str, range(1, POSITIONS + 1))]
    rows: list[list[Cell]] = []
    for outcome in outcomes:
        counts = outcome.acceptance()
        for name, shares in (("joint", counts.joint), ("conditional", counts.conditional)):
            rows.append([*where(outcome), name, *_padded([f"{share:.2f}" for share in shares])])
    return Table("", header, rows)


def histogram_table(outcomes: Sequence[Outcome]) -> Table:
    """How many steps gave how many tokens."""
    header = ["split", "concurrency", "T", "draft length", *(f"L = {i}" for i in range(1, POSITIONS + 1)), "longer"]
    rows: list[list[Cell]] = []
    for outcome in outcomes:
        lengths = outcome.acceptance().lengths
        longer = sum(count for length, count in lengths.items() if length > POSITIONS)
        rows.append([*where(outcome), *(lengths[length] for length in range(1, POSITIONS + 1)), longer])
    return Table("", header, rows)


def speed_table(outcomes: Sequence[Outcome], published: bool) -> Table:
    """Output and user TPS without and with drafts. User TPS is of each request, (tokens - 1) / (last - first)."""
    rows: list[list[Cell]] = []
    for outcome in outcomes:
        off, on = timing(outcome.off), timing(outcome.on)
        measurement = outcome.measurement
        differing = None if measurement is None else len(measurement.differences())
        rows.append(
            [
                *where(outcome),
                _median(off.output_rates),
                _median(on.output_rates),
                _mean(off.user_rate),
                _mean(on.user_rate),
                mean_speedup(outcome),
                _ratio(measurement.speedup) if measurement is not None else None,
                None if differing is None else "all" if not differing else f"{differing} differ",
            ]
        )
    lines = "; ".join(f"{p.method} {p.greedy} / {p.sampled}" for p in SPEED_BENCH_SPEEDUPS)
    note = f"Published, T=0 / T=1, draft length 3, batch 32, B200: {lines}." if published else ""
    return Table("", SPEED_COLUMNS, rows, note)


def mean_speedup(outcome: Outcome) -> float | None:
    """Mean user TPS with / without drafts; None where one of them is missing."""
    off, on = timing(outcome.off).user_rate, timing(outcome.on).user_rate
    return on.mean / off.mean if off is not None and on is not None and off.mean else None


def time_table(outcomes: Sequence[Outcome]) -> Table:
    """TTFT, E2E and user TPS over requests. What is measured without drafts is the same for all draft lengths."""
    rows: list[list[Cell]] = []
    shown: set[int] = set()
    for outcome in outcomes:
        for name, passes in (("off", outcome.off), ("on", outcome.on)):
            if not passes or id(passes) in shown:
                continue
            shown.add(id(passes))
            found = timing(passes)
            head = [*where(outcome)[:3], None if name == "off" else where(outcome)[3], name]
            for title, values in (("TTFT [s]", found.ttft), ("E2E [s]", found.e2e), ("user TPS", found.user_rate)):
                if values is not None:
                    rows.append([*head, title, *_fields(values)])
    return Table("", TIME_COLUMNS, rows)


def _fields(values: Spread) -> list[Cell]:
    return [values.min, values.mean, values.std, values.q1, values.median, values.q3, values.max]


def _padded(values: Sequence[Cell]) -> list[Cell]:
    return [*values, *[None] * POSITIONS][:POSITIONS]


def _mean(values: Spread | None) -> float | None:
    return None if values is None else values.mean


def _median(values: Sequence[float]) -> float | None:
    return quantile(values, 0.5) if values else None


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def _ratio(summary: Summary | None) -> str | None:
    return None if summary is None else f"{number(summary.median)} ({quartiles(summary)})"
