"""Operating points: how hard a server is pressed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from paceline.errors import PacelineError

RATES = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0)
MIN_CLOSED = 16  # requests of a closed loop, at least
CLOSED_TURNS = 8  # requests of each place of a closed loop


class LoadError(PacelineError):
    """A load that cannot be asked for, or no server to ask."""


@dataclass(frozen=True, slots=True)
class Load:
    """``rate``: requests a second of an open loop; ``concurrency``: places of a closed one; ``trace``: its replay, so
    many times as fast."""

    kind: Literal["rate", "concurrency", "trace"]
    value: float

    def __str__(self) -> str:
        if self.kind == "rate":
            return f"{self.value:g} req/s"
        return f"{self.value:g} at once" if self.kind == "concurrency" else f"trace x {self.value:g}"

    def closed_requests(self) -> int:
        """Requests of a closed loop when none were named."""
        return max(MIN_CLOSED, round(CLOSED_TURNS * self.value))


def parse_numbers(values: Sequence[str], option: str, whole: bool = False) -> list[float]:
    """Numbers above zero from a repeated option with comma lists, each once, in ascending order. Raises
    ``LoadError``."""
    found: set[float] = set()
    for part in (part.strip() for value in values for part in value.split(",")):
        try:
            number = float(part)
        except ValueError:
            number = 0.0
        if not 0 < number < 1e6 or (whole and number != int(number)):
            kind = "a whole number" if whole else "a number"
            raise LoadError(f"{option} {part!r}: give {kind} above 0, or several with commas")
        found.add(number)
    return sorted(found)
