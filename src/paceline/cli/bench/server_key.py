"""The key of a server that is measured."""

from __future__ import annotations

from typing import Annotated

import typer

VARIABLE = "PACELINE_API_KEY"

ServerKey = Annotated[str, typer.Option("--api-key", envvar=VARIABLE, help="Key that the server wants.")]


def first_key(given: str) -> str | None:
    """The variable may hold several keys, as it does for ``paceline serve``: any of them will do."""
    return next(iter(given.split()), None)
