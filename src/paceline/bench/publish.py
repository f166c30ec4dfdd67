"""Where a report goes: the terminal always, files where the user names them."""

from __future__ import annotations

from pathlib import Path

from paceline.bench.output import terminal
from paceline.bench.output.csv_file import csv_text
from paceline.bench.output.files import OutputError, check_writable, write_files
from paceline.bench.output.json_file import as_json, check_names, json_text
from paceline.bench.output.page import page
from paceline.bench.output.record import record
from paceline.bench.sections import Report

__all__ = ["OutputError", "check_writable", "publish"]


def publish(report: Report, *, json: Path | None = None, csv: Path | None = None, html: Path | None = None) -> None:
    """Prints the report to standard output and writes the files that are named; says on standard error which.

    Raises ``OutputError`` when a file cannot be written, after the others were. Commands ask before they measure:
    the options of ``cli.bench`` call ``check_writable``."""
    made = record(report)
    terminal.show(made, plots_elsewhere=html is not None)
    check_names(report)
    # The values first: whatever happens to a drawing, what was measured is kept.
    write_files(
        (json, lambda: json_text(as_json(made))),
        (csv, lambda: csv_text([made])),
        (html, lambda: page([made])),
    )
