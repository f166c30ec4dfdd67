"""``paceline bench report``: pages and tables from the files that other commands wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.bench import options


def report(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.json...", help="Written by bench commands with --json.")],
    title: Annotated[str, typer.Option(help="Of the page. Default: of the one report, or how many there are.")] = "",
    csv_file: options.Csv = None,
    html_file: options.Html = None,
) -> None:
    """Draw a page again from measured values, or one page of several files; without --html or --csv: the tables."""
    from paceline.bench.output import terminal
    from paceline.bench.output.csv_file import csv_text
    from paceline.bench.output.files import OutputError, write_files
    from paceline.bench.output.json_file import read_records
    from paceline.bench.output.page import page

    with options.errors_in_one_line():
        if {csv_file, html_file} & set(files):
            raise OutputError("a file is both read and written; name another one for --html or --csv")
        records = []
        for file in files:
            found, without = read_records(file)
            records += found
            options.say_without_tables(without)
        if csv_file is None and html_file is None:
            for record in records:
                terminal.show(record, plots_elsewhere=False)
        write_files((csv_file, lambda: csv_text(records)), (html_file, lambda: page(records, title)))
