"""Tables as comma-separated values: for spreadsheets and scripts, so numbers are whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from paceline.bench.output.cells import has_value
from paceline.bench.output.record import Record, settings_text
from paceline.bench.sections import Cell, Table


def csv_text(records: Sequence[Record]) -> str:
    """All tables, one below the other. Lines that begin with # name the report and the table that follows; an empty
    cell is no value."""
    return "\n".join(block for record in records for block in _blocks(record))


def _blocks(record: Record) -> Iterator[str]:
    report = record.report
    warnings = [f"WARNING: {text}" for text in report.warnings]
    settings = ", ".join(f"{name} {text}" for name, text in settings_text(report))
    head = [report.title, report.command, f"{record.created}, Paceline {record.version}", settings, *warnings]
    yield _comments([line for line in head if line])
    for section in report.sections:
        for table in section.tables:
            yield _comments(
                [": ".join(title for title in dict.fromkeys([section.title, table.title]) if title)]
            ) + _table(table)


def _comments(lines: Sequence[str]) -> str:
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def _table(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_raw(cell) for cell in row] for row in table.rows)
    return text.getvalue()


def _raw(cell: Cell) -> str:
    if not has_value(cell):
        return ""
    return repr(float(cell)) if isinstance(cell, float) else str(cell)
