"""``paceline bench all``: what `make bench` runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

from paceline.cli.bench import options


def run_all(
    model: options.Model = "",
    threads: options.Threads = None,
    rounds: options.Rounds = 5,
    data: options.Data = None,
    json_file: options.Json = None,
    csv_file: options.Csv = None,
    html_file: options.Html = None,
) -> None:
    """Steps, speculation, then the comparison with the peers named by PACELINE_BENCH_* variables: `make bench`.

    Files hold what every command found, one after the other, also when one of them failed.
    """
    from paceline.bench.output.csv_file import csv_text
    from paceline.bench.output.files import OutputError, write_files
    from paceline.bench.output.json_file import json_text, records_of
    from paceline.bench.output.page import page

    common = [*([model] if model else []), *(["--threads", str(threads)] if threads else [])]
    common += ["--data", str(data)] if data else []
    values, statuses = _measure(common, rounds)
    failed = [f"{name} ended with exit status {status}" for name, status in statuses.items() if status]
    failed += [f"{name} told no values" for name in statuses if name not in values]
    with options.errors_in_one_line():
        records, without = records_of(values, "this run")
        options.say_without_tables(without)
        for text in failed:
            typer.echo(text, err=True)
        write_files(
            (json_file, lambda: json_text(values)),
            (csv_file if records else None, lambda: csv_text(records)),
            (html_file if records else None, lambda: page(records, "paceline bench all", failed)),
        )
        if not records and (csv_file or html_file):
            raise OutputError("no command told tables or plots, so --csv and --html have nothing to hold")
    if any(statuses.values()):
        raise typer.Exit(max(statuses.values()))


def _measure(common: list[str], rounds: int) -> tuple[dict[str, Any], dict[str, int]]:
    """What each command wrote as JSON, and its exit status; 1 when a signal ended it."""
    import subprocess
    import tempfile

    values: dict[str, Any] = {}
    statuses: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="paceline-bench-all-") as folder:
        for name, rounds_of_it in (("step", 3 * rounds), ("spec", max(1, rounds // 2)), ("peers", rounds)):
            typer.echo(f"\npaceline bench {name}:", err=True)
            file = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", "paceline", "bench", name, *common, "--rounds", str(rounds_of_it)]
            # A process of its own: one benchmark's engine must be gone before the next one starts.
            done = subprocess.run([*command, "--json", str(file)], check=False)
            statuses[name] = done.returncode if done.returncode >= 0 else 1
            if file.exists():
                values[name] = json.loads(file.read_text(encoding="utf-8"))
    return values, statuses
