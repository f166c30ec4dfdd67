"""Cells of tables, and summaries for the JSON report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from paceline.bench.statistics import Summary, summarize


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> str:
    """An aligned Markdown table. ``right``: by column, whether it is aligned to the right; default: none is."""
    widths = [max(1, *(cell_len(row[i]) for row in [header, *rows])) for i in range(len(header))]
    sides = [*right, *[False] * (len(header) - len(right))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_padded, cells, widths, sides)) + " |"

    rule = "|".join("-" * (width + 1) + (":" if side else "-") for width, side in zip(widths, sides, strict=True))
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def _padded(cell: str, width: int, right: bool) -> str:
    """``width`` in places of a terminal, of which a Chinese character takes two."""
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space


def number(value: float) -> str:
    """Three significant digits; whole from 100 on, and with an exponent only below 0.0001."""
    size = abs(value)
    if size >= 1:
        return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    return "0" if value == 0 else f"{value:.3f}" if size >= 0.1 else f"{value:#.3g}"


def quartiles(summary: Summary) -> str:
    return f"{number(summary.q1)} – {number(summary.q3)}" if summary.count > 1 else "one round"


def summary_json(values: Sequence[float]) -> dict[str, Any]:
    """Values with their summary, for the JSON report."""
    summary = summarize(values)
    return {"median": summary.median, "q1": summary.q1, "q3": summary.q3, "values": list(values)}
