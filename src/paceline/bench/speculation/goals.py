"""What speculation must gain, and what it may cost, each judged inside one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.bench.speculation.measurement import Measurement

COPY_HEAVY = ("edit", "summarization", "rag", "ner")
NEVER_BELOW = 0.98
DRAFTING_LIMIT = 0.04


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, judged: ``value`` and the target as text, ``where`` the value was measured."""

    title: str
    where: str
    value: float
    text: str
    met: bool


@dataclass(frozen=True, slots=True)
class SpeedGoal:
    """At least ``limit`` times the user TPS without drafts, for a set at a load."""

    workload: str
    load: int
    limit: float

    def judge(self, measurement: Measurement) -> Verdict | None:
        speedup = measurement.speedup
        if (measurement.workload, measurement.load) != (self.workload, self.load) or speedup is None:
            return None
        met = speedup.median >= self.limit
        where = f"{self.workload}, load {self.load}"
        return Verdict("speed-up (user TPS)", where, speedup.median, f"≥ {self.limit:g} x", met)


SPEED_GOALS = (
    *(SpeedGoal(name, 1, 2.0) for name in COPY_HEAVY),
    *(SpeedGoal(name, 8, 1.5) for name in COPY_HEAVY),
    *(SpeedGoal("chat", load, 1.0) for load in (1, 8, 32)),
)


def judge_all(measurements: Sequence[Measurement]) -> list[Verdict]:
    """Every goal that this run can judge. The last two hold for all sets and loads: the worst is named."""
    judged = [goal.judge(measurement) for goal in SPEED_GOALS for measurement in measurements]
    verdicts = [verdict for verdict in judged if verdict is not None]
    if measurements:
        worst, value = _extreme(measurements, lowest_speedup, min)
        verdicts.append(
            Verdict(
                "lowest speed-up (pooled user TPS, output)", worst, value, f"≥ {NEVER_BELOW:g} x", value >= NEVER_BELOW
            )
        )
        worst, value = _extreme(measurements, lambda m: m.drafting_share, max)
        verdicts.append(
            Verdict("drafting and control, of a step", worst, value, f"≤ {DRAFTING_LIMIT:g}", value <= DRAFTING_LIMIT)
        )
    return verdicts


def lowest_speedup(measurement: Measurement) -> float:
    """The lower one of the ratios of pooled user TPS and of output tokens a second: neither may suffer for the
    other."""
    pooled = measurement.pooled_speedup
    output = measurement.output_speedup.median
    return output if pooled is None else min(output, pooled.median)


def _extreme(
    measurements: Sequence[Measurement], key: Callable[[Measurement], float], choose: Callable[..., Measurement]
) -> tuple[str, float]:
    found = choose(measurements, key=key)
    return f"{found.workload}, load {found.load}", key(found)
