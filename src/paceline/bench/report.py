"""Cells of tables, and summaries for the JSON report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paceline.bench.statistics import Summary, summarize


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


def summary_json(values: Sequence[float]) -> dict[str, Any]:
    """Values with their summary, for the JSON report."""
    summary = summarize(values)
    return {"median": summary.median, "q1": summary.q1, "q3": summary.q3, "values": list(values)}
