"""How many machines a load needs, and what its tokens cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from paceline.bench.plan.predict import Point, Predictor, Speculation, Traffic

MILLION = 1e6
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """``machines`` that together serve ``rate`` requests a second, each at ``point``. ``most``: requests a second that
    one machine serves at its fullest. ``asked``: whether the rate is a wish or what one machine gives."""

    machines: int
    rate: float
    most: float
    point: Point
    asked: bool

    @property
    def load(self) -> float:
        """The share of the most that each machine serves."""
        return self.rate / self.machines / self.most


def all_points(predictor: Predictor, sequences: int, traffic: Traffic, speculation: Speculation | None) -> list[Point]:
    """Points at every number of sequences up to ``sequences``."""
    return [predictor.point(count, traffic, speculation) for count in range(1, sequences + 1)]


def fleet(points: Sequence[Point], rate: float | None, limit: float) -> Fleet:
    """The fewest machines that serve ``rate`` requests a second, each at ``limit`` of its most at most: what is left is
    for bursts. ``rate`` None: one machine at that limit. ``points``: at every number of sequences, ascending."""
    most = max(point.requests for point in points)
    machines = 1 if rate is None else max(1, ceil(rate / (limit * most) - 1e-9))
    each = limit * most if rate is None else rate / machines
    point = next(point for point in points if point.requests >= each * (1 - 1e-9))
    return Fleet(machines, each * machines, most, point, rate is not None)


def dollars_per_million(machines: Fleet, dollars_per_hour: float, tokens: int) -> float:
    """Price of a million tokens of which each request has ``tokens``, at the fleet's rate."""
    return machines.machines * dollars_per_hour / HOUR / (machines.rate * tokens) * MILLION
