"""Numbers as a sentence has them."""

from __future__ import annotations

from paceline.bench.report import number


def milliseconds(seconds: float) -> str:
    """Milliseconds below a second, else seconds."""
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1000 * seconds)} ms"


def percent(share: float) -> str:
    return f"{share:.0%}"


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def cores(count: float) -> str:
    return f"{count:.1f}"
