"""The report of ``paceline bench step``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.bench.report import number, quartiles, summary_json
from paceline.bench.roofline.model_work import total
from paceline.bench.roofline.plots import Point, roofline_plot
from paceline.bench.roofline.work import Ceilings
from paceline.bench.sections import Cell, Plot, Report, Section, Series, Table
from paceline.bench.statistics import Summary, compare, summarize
from paceline.bench.step import StepBench, Steps, Values

STEP_LIMIT = 1.35  # one row against the read loop
EIGHT_ROWS_LIMIT = 1.6  # eight rows against one

COLUMNS = ("measured", "median", "quartiles", "of the floor", "ratio", "to", "target", "met")
FLOOR = (
    "The floor of a step is the roofline of its matrix products plus that of its attention: bytes / bandwidth of the "
    "read loop or operations / multiply rate, whichever is longer. Everything else (norms, sampling, the scheduler) "
    "has no floor of its own."
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a duration in seconds, its floor, and its ratio to another one."""

    title: str
    name: str
    summary: Summary
    detail: str = ""
    ratio: Summary | None = None
    to: str = ""
    limit: float | None = None
    floor: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.limit is None or self.ratio is None else self.ratio.median <= self.limit


def floor_seconds(steps: Steps, ceilings: Ceilings) -> float:
    """The least time of steps; products and attention of a step come one after the other."""
    return sum(ceilings.bound(products) + ceilings.bound(attention) for products, attention in steps)


def lines(values: Values, step_bytes: int, floors: Mapping[str, float] | None = None) -> list[Line]:
    """The measured durations with their floors, ratios and targets, in the order of the table."""
    result = []
    for name, seconds in values.items():
        summary, floor = summarize(seconds), (floors or {}).get(name)
        kind, _, rest = name.partition(" ")
        count, _, context = rest.partition(" at ")
        behind = f" behind {context} tokens" if context else ""
        if kind == "read":
            speed = f"{step_bytes / summary.median / 1e9:.1f} GB/s"
            result.append(Line(f"read loop over {step_bytes / 1e6:.1f} MB", name, summary, speed))
        elif kind == "step":
            result.append(_step_line(values, name, summary, int(count), behind, floor))
        elif kind == "model":
            ratio = compare(seconds, values[f"step {rest}"])
            result.append(Line("  of it the model", name, summary, "", ratio, "the step"))
        else:
            speed = f"{int(count) / summary.median:.0f} tokens/s"
            result.append(Line(f"prefill, {count} tokens", name, summary, speed, floor=floor))
    return result


def _step_line(values: Values, name: str, summary: Summary, count: int, behind: str, floor: float | None) -> Line:
    title = f"decode step, {count} row{'s' * (count > 1)}{behind}"
    speed = f"{count / summary.median:.0f} tokens/s"
    one = name.replace(f"step {count}", "step 1", 1)
    if count == 1 and not behind:
        return Line(
            title, name, summary, speed, compare(values[name], values["read"]), "the read loop", STEP_LIMIT, floor
        )
    if count > 1 and one in values:
        limit = EIGHT_ROWS_LIMIT if count == 8 and not behind else None
        return Line(title, name, summary, speed, compare(values[name], values[one]), "one row", limit, floor)
    return Line(title, name, summary, speed, floor=floor)


def step_table(rows: Sequence[Line]) -> Table:
    """Durations in milliseconds, with the speeds they mean."""
    cells: list[list[Cell]] = []
    for line in rows:
        in_ms = Summary(line.summary.median * 1e3, line.summary.q1 * 1e3, line.summary.q3 * 1e3, line.summary.count)
        detail = f" ({line.detail})" if line.detail else ""
        cells.append(
            [
                line.title,
                f"{number(in_ms.median)} ms{detail}",
                quartiles(in_ms),
                f"{number(line.summary.median / line.floor)} x" if line.floor else "",
                f"{number(line.ratio.median)} ({quartiles(line.ratio)})" if line.ratio else "",
                line.to,
                f"≤ {line.limit:g}" if line.limit is not None else "",
                {None: "", True: "yes", False: "NO"}[line.met],
            ]
        )
    return Table("", COLUMNS, cells)


def step_report(bench: StepBench, model: str, rounds: int, command: str) -> Report:
    """All that was measured."""
    quiet, noise = bench.guard.verdict()
    ceilings = read_ceilings(bench)
    floors = {name: floor_seconds(steps, ceilings) for name, steps in bench.works.items()}
    skipped = [f"Not measured: {reason}." for reason in dict.fromkeys(bench.skipped)]
    plots = [_step_plot(bench, floors), *_prefill_plot(bench, floors), roofline_plot(_points(bench), ceilings)]
    sections = [
        Section("Steps and prefills", [FLOOR, *skipped], [step_table(lines(bench.values, bench.step_bytes, floors))]),
        Section("The machine", [noise] if quiet else [], [bench.meter.table()], plots),
    ]
    contexts = ", ".join(map(str, bench.contexts))
    settings: dict[str, Cell] = {
        "model": model,
        "backend": bench.backend,
        "threads": bench.threads,
        "tokens of context": contexts,
        "rounds": rounds,
    }
    data = {
        "backend": bench.backend,
        "threads": bench.threads,
        "context": bench.contexts[0],
        "contexts": list(bench.contexts),
        "step_bytes": bench.step_bytes,
        "quiet": quiet,
        "noise": noise,
        "ceilings": bench.meter.data(),
        "floors": floors,
        "skipped": list(dict.fromkeys(bench.skipped)),
        "seconds": {name: summary_json(values) for name, values in bench.values.items()},
    }
    return Report("paceline bench step", command, sections, settings, data, [] if quiet else [noise])


def read_ceilings(bench: StepBench) -> Ceilings:
    """The meter's rates beside the bandwidth of the read loop, which is measured in between the steps."""
    return Ceilings(bench.step_bytes / summarize(bench.values["read"]).median, bench.meter.ceilings.rates)


def _step_plot(bench: StepBench, floors: Mapping[str, float]) -> Plot:
    series: list[Series] = []
    for context in bench.contexts:
        behind = "" if context == bench.contexts[0] else f" at {context}"
        names = [name for name in bench.values if name.startswith("step ") and name.partition(" at ")[2] == behind[4:]]
        if names:
            series += _against_floor(bench, names, f"{context} tokens of context", floors)
    return Plot("Decode steps", "rows (sequences)", "time [ms]", series, log_x=True, log_y=True)


def _prefill_plot(bench: StepBench, floors: Mapping[str, float]) -> list[Plot]:
    names = [name for name in bench.values if name.startswith("prefill ")]
    if not names:
        return []
    series = _against_floor(bench, names, "time to the first token", floors)
    return [Plot("Prefills", "prompt [tokens]", "time [ms]", series, log_x=True, log_y=True)]


def _against_floor(
    bench: StepBench, names: Sequence[str], title: str, floors: Mapping[str, float]
) -> tuple[Series, Series]:
    x = [float(name.split()[1]) for name in names]
    times = [summarize(bench.values[name]) for name in names]
    low, high = [time.q1 * 1e3 for time in times], [time.q3 * 1e3 for time in times]
    return (
        Series(title, x, [time.median * 1e3 for time in times], low, high),
        Series(f"{title}: floor", x, [floors[name] * 1e3 for name in names], limit=True),
    )


def _points(bench: StepBench) -> list[Point]:
    points = []
    for name, steps in bench.works.items():
        kind = "decode steps" if name.startswith("step ") else "prefills"
        work = total(part for step in steps for part in step)
        points.append(Point(kind, work, summarize(bench.values[name]).median))
    return points
