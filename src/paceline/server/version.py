"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed


def version() -> str:
    """For example ``0.1.0``; ``0+unknown`` when the package runs from a folder without being installed."""
    try:
        return _installed("paceline")
    except PackageNotFoundError:
        return "0+unknown"
