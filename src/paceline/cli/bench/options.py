"""What the bench commands share: options, errors in one line, and where results go."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Argument(help="Folder, .gguf file, Hub id or alias. Default: the default model.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Compute threads. Default: all usable cores.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; each measures everything once, in turns.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write all values to this file.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Also write the tables to this file, one below the other.")]
Html = Annotated[Path | None, typer.Option("--html", help="Also write a report with plots: one self-contained file.")]
Data = Annotated[
    Path | None,
    typer.Option(
        envvar="PACELINE_BENCH_DATA",
        exists=True,
        file_okay=False,
        help="Folder of JSON lines or text files to take prompts from. Default: generated English.",
    ),
]


def command_line() -> str:
    """What the user typed, to repeat it."""
    return shlex.join(["paceline", *sys.argv[1:]])


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What the user can mend is told without a traceback; the exit status is 2."""
    from paceline.errors import PacelineError

    try:
        yield
    except PacelineError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


def event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: the client shares the cores with what it measures."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def write_json(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    typer.echo(f"values written to {path}")
