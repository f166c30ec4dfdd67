"""Where a report goes: the terminal always, files where the user names them."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Any

from paceline.bench.machine import machine
from paceline.bench.report import markdown_table, number
from paceline.bench.sections import Cell, Report, Table
from paceline.errors import PacelineError


def publish(report: Report, *, json: Path | None = None, csv: Path | None = None, html: Path | None = None) -> None:
    """Prints the report to standard output and writes the files that are named. Raises ``PacelineError`` for a kind of
    file that cannot be written yet."""
    for name, file in (("--csv", csv), ("--html", html)):
        if file is not None:
            raise PacelineError(f"{name} {file}: this kind of file is not written yet; use --json")
    print(f"{report.title}\n{', '.join(f'{name} {cell(value)}' for name, value in report.settings.items())}")
    for section in report.sections:
        print(f"\n### {section.title}\n")
        for text in section.text:
            print(f"{text}\n")
        for table in section.tables:
            print(table_text(table) + "\n")
    for warning in report.warnings:
        print(warning)
    if json is not None:
        json.write_text(dumps(as_json(report), indent=1, ensure_ascii=False) + "\n")


def as_json(report: Report) -> dict[str, Any]:
    """What the JSON file holds."""
    head = {"title": report.title, "command": report.command, "machine": machine()}
    return {**head, "settings": dict(report.settings), "warnings": list(report.warnings), **report.data}


def table_text(table: Table) -> str:
    """An aligned Markdown table, with its title above and its note below."""
    rows = [[cell(value) for value in row] for row in table.rows]
    parts = [table.title, markdown_table(table.columns, rows), table.note]
    return "\n\n".join(part for part in parts if part)


def cell(value: Cell) -> str:
    """A cell as text."""
    if value is None:
        return "–"
    return number(value) if isinstance(value, float) else str(value)
