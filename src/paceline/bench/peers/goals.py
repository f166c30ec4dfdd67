"""The speeds that Paceline promises, each a ratio inside one run or a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from paceline.bench.peers import scenarios
from paceline.bench.peers.scenarios import Metric
from paceline.bench.statistics import Summary, compare, summarize

#: Measured values by metric key, then by engine, one for each round.
Measurements = Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Engines:
    """Who is who among the measured engines, by name; ``baseline`` and ``library`` are None when they did not run."""

    own: str
    peers: tuple[str, ...]
    baseline: str | None = None
    library: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, judged. It belongs to the table's line of ``engine`` under ``metric``."""

    metric: Metric
    engine: str
    text: str
    value: Summary
    met: bool


@dataclass(frozen=True, slots=True)
class Goal:
    """``limit`` on Paceline's value, or on its ratio to the engine named by ``against``: ``baseline`` (same model
    file), ``best`` (the best peer) or ``library`` (itself without a server)."""

    metric: Metric
    limit: float
    text: str
    against: Literal["baseline", "best", "library"] | None = None
    at_most: bool = False

    def judge(self, measurements: Measurements, engines: Engines) -> Verdict | None:
        """None when this run did not measure what the goal needs."""
        values = measurements.get(self.metric.key, {})
        own, other = values.get(engines.own), self._other(values, engines)
        if not own or (self.against is not None and other is None):
            return None
        value = summarize(own) if other is None else compare(own, values[other])
        met = value.median <= self.limit if self.at_most else value.median >= self.limit
        return Verdict(self.metric, other or engines.own, self.text, value, met)

    def _other(self, values: Mapping[str, list[float]], engines: Engines) -> str | None:
        if self.against == "best":
            return best_of(self.metric, values, engines.peers)
        name = {"baseline": engines.baseline, "library": engines.library}.get(self.against or "")
        return name if name is not None and values.get(name) else None


GOALS = (
    Goal(scenarios.DECODE_350, 3.0, "≥ 3 x llama.cpp on the same file", "baseline"),
    Goal(scenarios.DECODE_350, 1.0, "> the best peer", "best"),
    Goal(scenarios.TTFT_350, 0.75, "≤ 0.75 x the best peer", "best", at_most=True),
    Goal(scenarios.BATCH_16, 2.0, "≥ 2 x the best peer", "best"),
    Goal(scenarios.START, 4.0, "≤ 4 s", at_most=True),
    Goal(scenarios.MEMORY_RSS, 700.0, "≤ 700 MB", at_most=True),
    Goal(scenarios.BUSY_SHARE, 0.4, "≥ 0.4"),
    Goal(scenarios.TOKEN_COST, 1.1, "≤ 1.1 x without a server", "library", at_most=True),
)


def best_of(metric: Metric, values: Mapping[str, list[float]], names: tuple[str, ...]) -> str | None:
    """The engine among ``names`` with the best median."""
    measured = [(summarize(values[name]).median, name) for name in names if values.get(name)]
    if not measured:
        return None
    return (max if metric.higher_is_better else min)(measured)[1]


def judge_all(measurements: Measurements, engines: Engines) -> list[Verdict]:
    """Every goal that this run can judge."""
    verdicts = (goal.judge(measurements, engines) for goal in GOALS)
    return [verdict for verdict in verdicts if verdict is not None]
