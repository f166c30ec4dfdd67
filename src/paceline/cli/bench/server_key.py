"""The key of a server that is measured, and a command line that does not give it away."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from paceline.cli.bench import options

VARIABLE = "PACELINE_API_KEY"

ServerKey = Annotated[str, typer.Option("--api-key", envvar=VARIABLE, help="Key that the server wants.")]


def first_key(given: str) -> str | None:
    """The variable may hold several keys, as it does for ``paceline serve``: any of them will do."""
    return next(iter(given.split()), None)


def command_without_key(given: str) -> str:
    """What the user typed, for reports that others read."""
    line = options.command_line()
    typed = given and os.environ.get(VARIABLE) != given
    return line.replace(given, "...") if typed else line
