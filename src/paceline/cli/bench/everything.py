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
) -> None:
    """Steps, speculation, then the comparison with the peers named by PACELINE_BENCH_* variables: `make bench`."""
    import subprocess
    import tempfile

    common = ["--threads", str(threads)] if threads else []
    common += ["--data", str(data)] if data else []
    report: dict[str, Any] = {}
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, rounds_of_it in (("step", 3 * rounds), ("spec", max(1, rounds // 2)), ("peers", rounds)):
            typer.echo(f"\n## paceline bench {name}\n")
            file = Path(folder) / name
            command = [sys.executable, "-m", "paceline", "bench", name, *([model] if model else []), *common]
            # A process of its own: one benchmark's engine must be gone before the next one starts.
            done = subprocess.run([*command, "--rounds", str(rounds_of_it), "--json", str(file)], check=False)
            status = max(status, done.returncode)
            if file.exists():
                report[name] = json.loads(file.read_text())
    if json_file is not None:
        options.write_json(json_file, report)
    if status:
        raise typer.Exit(status)
