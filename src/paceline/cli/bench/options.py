"""What the bench commands share: options, errors in one line, and where results go."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What the user can mend is told without a traceback; the exit status is 2."""
    from paceline.errors import PacelineError

    try:
        yield
    except PacelineError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


def writable(context: typer.Context, path: Path | None) -> Path | None:
    """Refuses a file that cannot be written when the command line is read: not after an hour of measuring."""
    if path is not None:
        from paceline.bench.output.files import check_writable

        # Those read before this one: whichever of two comes second is refused.
        others = [other for other in context.params.values() if isinstance(other, Path) and other == path]
        with errors_in_one_line():
            check_writable([*others, path])
    return path


def page_writable(context: typer.Context, path: Path | None) -> Path | None:
    """Of a page, which plotly draws: refuses it without, too."""
    from importlib.util import find_spec

    if path is not None and find_spec("plotly") is None:
        typer.echo('Error: --html needs plotly: pip install "paceline[bench]"', err=True)
        raise typer.Exit(2)
    return writable(context, path)


Model = Annotated[str, typer.Argument(help="Folder, .gguf file, Hub id or alias. Default: the default model.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Compute threads. Default: all usable cores.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; each measures everything once, in turns.")]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json", callback=writable, help="Also write all values; `paceline bench report` draws pages from it."
    ),
]
Csv = Annotated[
    Path | None,
    typer.Option("--csv", callback=writable, help="Also write the tables to this file, one below the other."),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", callback=page_writable, help="Also write a page with tables and plots: one file, for a browser."
    ),
]
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
    """What the user typed, to repeat it; keys are left out, for reports are read by others."""
    words = ["paceline", *sys.argv[1:]]
    for place, word in enumerate(words):
        if word == "--api-key" and place + 1 < len(words):
            words[place + 1] = "..."
        elif word.startswith("--api-key="):
            words[place] = "--api-key=..."
    return shlex.join(words)


def say_without_tables(names: Sequence[str]) -> None:
    """Of commands whose JSON holds values alone."""
    for name in names:
        typer.echo(f"{name}: no tables or plots, only values in the JSON file", err=True)
