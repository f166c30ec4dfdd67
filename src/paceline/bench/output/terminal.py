"""A report on standard output: tables drawn for a terminal, Markdown for everything else (files, documents)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from paceline.bench.output.cells import cell_text, repeated, right_aligned
from paceline.bench.output.columns import GAP, Widths, fit
from paceline.bench.output.record import Record, machine_text, settings_text
from paceline.bench.report import markdown_table
from paceline.bench.sections import Report, Section, Table

LONG = 60  # characters of a setting that has a line of its own


def show(record: Record, *, plots_elsewhere: bool) -> None:
    """Prints the report. ``plots_elsewhere``: a page with the plots is written, so none need be mentioned."""
    if sys.stdout.isatty():
        _draw(record, Console(file=sys.stdout, highlight=False), plots_elsewhere)
    else:
        print(markdown(record, plots_elsewhere=plots_elsewhere))


def markdown(record: Record, *, plots_elsewhere: bool) -> str:
    """The report as Markdown: warnings first, then what the numbers depend on, then the sections."""
    report = record.report
    parts = [f"## {report.title}", *(f"> **Warning:** {' '.join(warning.split())}" for warning in report.warnings)]
    parts += _head(record)
    for section in _told(report):
        parts += [f"### {section.title}", *section.text]
        for table in section.tables:
            parts += [
                f"**{table.title}**" if table.title not in ("", section.title) else "",
                markdown_text(table),
                table.note,
            ]
    parts.append("" if plots_elsewhere else _plots(report))
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_text(table: Table) -> str:
    """An aligned Markdown table; "no rows" for one without."""
    if not table.rows or not table.columns:
        return "(no rows)"
    rows = [[cell.replace("|", "\\|") for cell in row] for row in _texts(table)]
    return markdown_table([column.replace("|", "\\|") for column in table.columns], rows, right_aligned(table))


def _draw(record: Record, console: Console, plots_elsewhere: bool) -> None:
    report = record.report
    console.print(Text(f"\n{report.title}", "bold"))
    for warning in report.warnings:
        console.print(Text(f"WARNING: {warning}", "bold yellow"))
    console.print(Text("\n".join(_head(record)), "dim"))
    for section in _told(report):
        console.print(Text(f"\n{section.title}", "bold cyan"))
        for paragraph in section.text:
            console.print(Text(paragraph))
        for table in section.tables:
            _draw_table(table, console, table.title not in ("", section.title))
    if not plots_elsewhere and _plots(report):
        console.print(Text(f"\n{_plots(report)}", "dim"))


def _draw_table(table: Table, console: Console, with_title: bool) -> None:
    if with_title:
        console.print(Text(f"\n{table.title}", "italic"))
    if not table.rows or not table.columns:
        console.print(Text("(no rows)", "dim"))
        return
    rows, numeric = _texts(table), right_aligned(table)
    for widths in fit(table.columns, rows, numeric, console.width):
        console.print()
        console.print(_rich_table(table.columns, rows, numeric, widths))
    if table.note:
        console.print(Padding(Text(table.note, "dim"), (1, 0, 0, 0)))


def _rich_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], widths: Widths
) -> RichTable:
    # As Text, for in markup "[ms]" is the name of a style.
    drawn = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for i, width in widths.items():
        drawn.add_column(
            Text(header[i]), justify="right" if numeric[i] else "left", vertical="top", width=width, overflow="fold"
        )
    for row in rows:
        drawn.add_row(*(Text(row[i]) for i in widths))
    return drawn


def _texts(table: Table) -> list[list[str]]:
    """Cells as text; what a first cell repeats of the row above is left out, so that groups are seen."""
    rows = [[cell_text(cell) for cell in row] for row in table.rows]
    return [["", *row[1:]] if again else row for row, again in zip(rows, repeated(table.rows), strict=True)]


def _told(report: Report) -> list[Section]:
    """Sections that are more than plots."""
    return [section for section in report.sections if section.text or section.tables]


def _head(record: Record) -> list[str]:
    """What the numbers depend on: short settings on one line, long ones on lines of their own, the machine."""
    settings = settings_text(record.report)
    short = ", ".join(f"{name} {text}" for name, text in settings if len(text) <= LONG)
    long = [f"{name}: {text}" for name, text in settings if len(text) > LONG]
    return [line for line in (short, *long, machine_text(record)) if line]


def _plots(report: Report) -> str:
    count = sum(len(section.plots) for section in report.sections)
    return f"{count} plot{'s' if count > 1 else ''}: give --html FILE" if count else ""
