"""The run: every repeat goes through workloads and loads, at each of which all targets are measured, one by one.

With several targets they take turns point by point, and who begins changes with every point and every repeat, so that
a machine that drifts does so for all alike. A target that is not measured stands still (SIGSTOP) when it was started
here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from paceline.bench.endpoint import EndpointError
from paceline.bench.load.driver import GeneratorError, PointRun, run_plan
from paceline.bench.load.lengths import fit
from paceline.bench.load.loads import Load, LoadError
from paceline.bench.load.plan import Plan, PlannedRequest
from paceline.bench.load.points import Point, make_point
from paceline.bench.load.scenarios import user
from paceline.bench.load.settings import Settings
from paceline.bench.load.targets import LoadTarget
from paceline.bench.load.workloads import Shot, Workload
from paceline.bench.noise import NoiseGuard
from paceline.bench.peers.targets import TargetError
from paceline.bench.progress import Progress, Silent
from paceline.bench.report import number
from paceline.bench.text import passage

WAKE_TOKENS = 8  # of the unmeasured request before each point of several targets
WARM_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Skipped:
    """A point that was not measured, and why."""

    target: str
    workload: str
    load: Load
    why: str


@dataclass(slots=True)
class Sweep:
    """``run`` measures everything. ``points`` has what was measured so far, also after Ctrl-C (``interrupted``) and
    when a target fails (``failures``: it takes no further part). ``raw``: a file that gets every record."""

    targets: Sequence[LoadTarget]
    workloads: Sequence[Workload]
    settings: Settings
    progress: Progress = field(default_factory=Silent)
    raw: TextIO | None = None
    guard: NoiseGuard = field(default_factory=NoiseGuard)
    points: list[Point] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    _warmed: set[tuple[str, str]] = field(default_factory=set)
    _warm_ups: int = 0
    _saturated: dict[tuple[str, str], Load] = field(default_factory=dict)

    async def run(self) -> None:
        """Raises ``DataError`` for texts that cannot be asked of these servers, ``LoadError`` when there is none."""
        try:
            for target in self.targets:
                await self._open(target)
            if not self.alive():
                raise LoadError("; ".join(self.failures.values()))
            await self._fit()
            points = [(workload, load) for workload in self.workloads for load in workload.loads]
            self.progress.start(len(points) * self.settings.repeats * len(self.targets), "points under load")
            for repeat in range(self.settings.repeats):
                for position, (workload, load) in enumerate(points):
                    await self._measure_all(workload, load, repeat, position)
        except asyncio.CancelledError:
            self.interrupted = True
        finally:
            for target in self.targets:
                target.stop()

    def alive(self) -> list[LoadTarget]:
        return [target for target in self.targets if target.name not in self.failures]

    async def _open(self, target: LoadTarget) -> None:
        try:
            if target.owned:
                self.progress.start(1, f"starting {target.name}")
            await target.open()
        except (TargetError, EndpointError, OSError) as error:
            self._fail(target, str(error).strip())
            return
        for note in target.notes:
            self.progress.say(note)
        if len(self.targets) > 1:
            target.suspend()

    async def _fit(self) -> None:
        """Prompts of the right lengths, by the first server that counts tokens and the smallest context."""
        contexts = [target.context for target in self.alive() if target.context is not None]
        for workload in self.workloads:
            samples, counts = list(workload.samples()), []
            for target in self.alive():
                target.resume()
                counts = await asyncio.to_thread(target.count_tokens, samples)
                if len(self.targets) > 1:
                    target.suspend()
                if counts:
                    break
            workload.fit(fit(samples if counts else [], counts), min(contexts, default=None))

    async def _measure_all(self, workload: Workload, load: Load, repeat: int, position: int) -> None:
        """All targets at one point, with the same requests. Who is first changes with the point and the repeat."""
        taking_part = [target for target in self.alive() if not self._skips(target, workload, load)]
        self.progress.advance(len(self.targets) - len(taking_part))
        if not taking_part:
            return
        shots = workload.shots(load, repeat)
        if not shots:
            self.progress.say(f"{workload.name}, {load}: no request falls into this point; ask for a longer --duration")
            return
        first = (repeat + position) % len(taking_part)
        for target in taking_part[first:] + taking_part[:first]:
            await self._measure(target, workload, load, repeat, shots)
            self.progress.advance()

    def _skips(self, target: LoadTarget, workload: Workload, load: Load) -> bool:
        saturated = self._saturated.get((target.name, workload.name))
        if saturated is None or load.kind != "rate" or load.value <= saturated.value:
            return False
        skipped = Skipped(target.name, workload.name, load, f"saturated at {saturated}")
        if skipped not in self.skipped:
            self.skipped.append(skipped)
        return True

    async def _measure(
        self, target: LoadTarget, workload: Workload, load: Load, repeat: int, shots: Sequence[Shot]
    ) -> None:
        if all(other.owned for other in self.targets):
            target.suspend()
            self.guard.sample()
        target.resume()
        try:
            run = await run_plan(self._plan(target, workload, load, shots), target.counters, target.ended)
        except GeneratorError as error:
            self._fail(target, str(error))
            return
        finally:
            if len(self.targets) > 1 and target.name not in self.failures:
                target.suspend()
        gone = await self._gone(target, run)
        self._note(target, workload, load, repeat, run)
        if gone:
            self._fail(target, f"gone at {workload.name}, {load}: {gone}")

    async def _gone(self, target: LoadTarget, run: PointRun) -> str:
        """Why the target cannot be measured any further; "" when it can."""
        gone = run.broken or target.ended()
        stopped = run.client.stopped if run.client is not None else ""
        if not gone and (stopped or all(record.error for record in run.records)):
            gone = await target.unreachable()
        if any(record.error for record in run.records):
            run.broken = run.broken or stopped or gone
        return gone

    def _note(self, target: LoadTarget, workload: Workload, load: Load, repeat: int, run: PointRun) -> None:
        point = make_point(
            target.name, workload.name, load, repeat, run, self.settings.goodput, self.settings.late_limit
        )
        self.points.append(point)
        if run.warm_up_error:
            self.progress.say(f"{target.name}, {workload.name}: an unmeasured request failed: {run.warm_up_error}")
        if self.raw is not None:
            where = {"target": target.name, "workload": workload.name, "load": str(load), "repeat": repeat}
            self.raw.writelines(f"{json.dumps(where)[:-1]}, {record.line()[1:]}\n" for record in run.records)
            self.raw.flush()
        turn = f"[{repeat + 1}/{self.settings.repeats}] " if self.settings.repeats > 1 else ""
        self.progress.say(f"{turn}{point_line(point, len(self.targets) > 1)}")
        if self.settings.until_saturated and point.saturated:
            self._saturated.setdefault((target.name, workload.name), load)
            self.progress.say(f"{target.name}, {workload.name}: saturated at {load}; higher rates are skipped")

    def _plan(self, target: LoadTarget, workload: Workload, load: Load, shots: Sequence[Shot]) -> Plan:
        settings, address = self.settings, target.address
        closed = load.kind == "concurrency"
        headers = {} if address.api_key is None else {"Authorization": f"Bearer {address.api_key}"}
        return Plan(
            address.host,
            address.port,
            tls=address.scheme == "https",
            headers=headers,
            requests=[target.request(shot, settings.temperature) for shot in shots],
            warm_up=self._warm_up(target, workload, shots),
            concurrency=int(load.value) if closed else None,
            duration=settings.duration if closed else None,
            timeout=settings.timeout,
            drain=settings.drain,
        )

    def _warm_up(self, target: LoadTarget, workload: Workload, shots: Sequence[Shot]) -> list[PlannedRequest]:
        """Requests about texts that nobody else asks: some before a workload's first point (one for each adapter at
        least), one where the target has just been woken."""
        first = (target.name, workload.name) not in self._warmed
        self._warmed.add((target.name, workload.name))
        adapters = list(dict.fromkeys(shot.adapter for shot in shots))
        count = max(self.settings.warm_ups, len(adapters)) if first and self.settings.warm_ups else 0
        count = count or (1 if len(self.targets) > 1 else 0)
        requests = []
        for number_of_it in range(count):
            self._warm_ups += 1
            text = passage(900_000_000 + self._warm_ups, 4)
            tokens = WARM_TOKENS if first else WAKE_TOKENS
            shot = Shot(0.0, user(text), tokens, adapters[number_of_it % len(adapters)])
            requests.append(target.request(shot, self.settings.temperature))
        return requests

    def _fail(self, target: LoadTarget, why: str) -> None:
        self.failures[target.name] = why
        if len(self.targets) > 1 or self.points:
            self.progress.say(f"{target.name} failed and takes no further part: {why}")
        target.stop()


def point_line(point: Point, with_target: bool) -> str:
    """One line about a point."""
    metrics = point.metrics
    parts = [f"{metrics.completed} of {metrics.requests + point.client.unsent} answered"]
    if metrics.ttft is not None and metrics.e2e is not None:
        parts.append(f"TTFT P50 {number(metrics.ttft.p50 * 1e3)} ms, P95 {number(metrics.ttft.p95 * 1e3)} ms")
        parts.append(f"E2E P50 {number(metrics.e2e.p50)} s, {number(metrics.output_rate)} tokens/s")
    parts += [f"INVALID: {point.late}"] if point.late else []
    parts += [f"BROKEN OFF: {point.problem.splitlines()[0]}"] if point.problem else []
    target = f"{point.target}, " if with_target else ""
    return f"{target}{point.workload}, {point.load}: {'; '.join(parts)}"
