"""The table of ``paceline bench step``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.bench.report import markdown_table, number, quartiles
from paceline.bench.statistics import Summary, compare, summarize
from paceline.bench.step import Values

STEP_LIMIT = 1.35  # one row against the read loop
EIGHT_ROWS_LIMIT = 1.6  # eight rows against one

COLUMNS = ("measured", "median", "quartiles", "ratio", "to", "target", "met")


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a duration in seconds, and its ratio to another one."""

    title: str
    name: str
    summary: Summary
    detail: str = ""
    ratio: Summary | None = None
    to: str = ""
    limit: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.limit is None or self.ratio is None else self.ratio.median <= self.limit


def lines(values: Values, step_bytes: int) -> list[Line]:
    """The measured durations with their ratios and targets, in the order of the table."""
    result = []
    for name, seconds in values.items():
        summary = summarize(seconds)
        kind, _, count = name.partition(" ")
        if kind == "read":
            speed = f"{step_bytes / summary.median / 1e9:.1f} GB/s"
            result.append(Line(f"read loop over {step_bytes / 1e6:.1f} MB", name, summary, speed))
        elif kind == "step":
            result.append(_step_line(values, name, summary, int(count)))
        elif kind == "model":
            ratio = compare(seconds, values[f"step {count}"])
            result.append(Line("  of it the model", name, summary, "", ratio, "the step"))
        else:
            result.append(
                Line(f"prefill, {count} tokens", name, summary, f"{int(count) / summary.median:.0f} tokens/s")
            )
    return result


def _step_line(values: Values, name: str, summary: Summary, count: int) -> Line:
    speed = f"{count / summary.median:.0f} tokens/s"
    limit: float | None
    if count == 1:
        ratio, to, limit = compare(values[name], values["read"]), "the read loop", STEP_LIMIT
    elif "step 1" in values:
        ratio, to, limit = compare(values[name], values["step 1"]), "one row", EIGHT_ROWS_LIMIT if count == 8 else None
    else:
        return Line(f"decode step, {count} rows", name, summary, speed)
    return Line(f"decode step, {count} row{'s' * (count > 1)}", name, summary, speed, ratio, to, limit)


def step_table(rows: Sequence[Line]) -> str:
    """Durations in milliseconds, with the speeds they mean."""
    cells = []
    for line in rows:
        in_ms = Summary(line.summary.median * 1e3, line.summary.q1 * 1e3, line.summary.q3 * 1e3, line.summary.count)
        detail = f" ({line.detail})" if line.detail else ""
        cells.append(
            [
                line.title,
                f"{number(in_ms.median)} ms{detail}",
                quartiles(in_ms),
                f"{number(line.ratio.median)} ({quartiles(line.ratio)})" if line.ratio else "",
                line.to,
                f"≤ {line.limit:g}" if line.limit is not None else "",
                {None: "", True: "yes", False: "NO"}[line.met],
            ]
        )
    return markdown_table(COLUMNS, cells)
