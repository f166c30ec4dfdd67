"""Several engines in one run, measured in turns: A, B, C, A, B, C.

All stay loaded; those not being measured are suspended (SIGSTOP), so that neither their threads nor their timers take
part in another's measurement. Every engine gets the same prompts; no engine gets a prompt twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from paceline.bench.noise import NoiseGuard
from paceline.bench.peers.goals import Engines
from paceline.bench.peers.scenarios import MEMORY_PSS, MEMORY_RSS, START, Metric, Scenario
from paceline.bench.peers.targets import Target, TargetError
from paceline.bench.progress import Lines, Progress
from paceline.bench.prompts import PromptSource
from paceline.bench.sse import HttpError

FIRST_PROMPT_TOKENS = 16
WAKE_TOKENS = 8  # of an unmeasured request after waking an engine: its memory may have been taken from it meanwhile
ATTEMPT_SECONDS = 600.0  # for one engine's start or measurement; then it is given up
SLOW_START = 30.0  # seconds; an engine that takes longer is started once


@dataclass(slots=True)
class Comparison:
    """A run: first every target's start, then the scenarios in interleaved rounds, then memory."""

    targets: list[Target]
    scenarios: Sequence[Scenario]
    prompts: PromptSource
    rounds: int = 5
    starts: int = 3
    progress: Progress = field(default_factory=Lines)
    guard: NoiseGuard = field(default_factory=NoiseGuard)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> list[Metric]:
        """All metrics of the run, in the order of the table."""
        return [*(m for s in self.scenarios for m in s.metrics), START, MEMORY_RSS, MEMORY_PSS]

    def engines(self) -> Engines:
        """Who is who, by what took part."""
        names = {kind: [t.name for t in self.targets if t.kind == kind] for kind in ("own", "library", "peer")}
        return Engines(
            own=names["own"][0] if names["own"] else "",
            peers=tuple(names["peer"]),
            baseline=next((t.name for t in self.targets if t.baseline), None),
            library=names["library"][0] if names["library"] else None,
        )

    async def run(self) -> None:
        """Measures everything; a target that fails is named in ``failures`` and takes no further part.

        Raises ``DataError``, before any target is started, when there are too few texts for the prompts."""
        self.prompts.reserve(self._prompt_lengths())
        try:
            await self._start_all()
            self.progress.start(len(self._alive()), "warm-up")
            for target in self._alive():
                await self._attempt(target, self._warm_up(target))
                self.progress.advance()
            for scenario in self.scenarios:
                await self._run_scenario(scenario)
            self._weigh()
        finally:
            for target in self.targets:
                target.stop()

    def _prompt_lengths(self) -> list[int]:
        """Of every prompt that the run takes when no target fails."""
        lengths = [FIRST_PROMPT_TOKENS]
        for scenario in self.scenarios:
            taking_part = sum(target.kind in scenario.kinds for target in self.targets)
            rounds = scenario.count(self.rounds)
            lengths += [scenario.prompt_tokens] * (scenario.requests * (taking_part + rounds))
            lengths += [FIRST_PROMPT_TOKENS] * rounds
        return lengths

    def _weigh(self) -> None:
        """Memory after all the work, when caches and buffers have their full size."""
        for target in self._alive():
            if target.kind != "library":
                memory = target.memory()
                self._note(MEMORY_RSS, target, memory.rss)
                self._note(MEMORY_PSS, target, memory.pss)

    async def _start_all(self) -> None:
        """Starts each target ``starts`` times, in turns, alone on the machine; the last start stays, suspended."""
        prompt = self.prompts.take(FIRST_PROMPT_TOKENS)
        self.progress.start(self.starts * len(self.targets), "starts")
        for round_number in range(self.starts):
            for target in self._alive():
                if target.tree is None:
                    last = round_number == self.starts - 1
                    await self._attempt(target, self._start(target, prompt, last))
                self.progress.advance()

    async def _start(self, target: Target, prompt: Sequence[int], last: bool) -> None:
        self.guard.sample()
        seconds = await target.start(prompt)
        self.progress.say(f"{target.name}: first token {seconds:.2f} s after its start")
        if target.kind != "library":
            self._note(START, target, seconds)
        if last or seconds > SLOW_START:
            target.suspend()
        else:
            target.stop()

    async def _warm_up(self, target: Target) -> None:
        """One small request of each scenario's shape, so that no first use is measured."""
        target.resume()
        for scenario in self.scenarios:
            if target.kind in scenario.kinds:
                requests = [self.prompts.take(scenario.prompt_tokens) for _ in range(scenario.requests)]
                await asyncio.gather(*(target.generate(prompt, 4) for prompt in requests))
        target.suspend()

    async def _run_scenario(self, scenario: Scenario) -> None:
        rounds = scenario.count(self.rounds)
        taking_part = sum(target.kind in scenario.kinds for target in self._alive())
        self.progress.start(rounds * taking_part, f"{scenario.name}: {rounds} rounds of {taking_part} engines")
        for _ in range(rounds):
            wake = self.prompts.take(FIRST_PROMPT_TOKENS)
            requests = [self.prompts.take(scenario.prompt_tokens) for _ in range(scenario.requests)]
            for target in self._alive():
                if target.kind in scenario.kinds:
                    await self._attempt(target, self._measure(scenario, target, wake, requests))
                    self.progress.advance()

    async def _measure(
        self, scenario: Scenario, target: Target, wake: Sequence[int], requests: Sequence[Sequence[int]]
    ) -> None:
        self.guard.sample()
        target.resume()
        await target.generate(wake, WAKE_TOKENS)
        measured = await scenario.measure(target, requests, scenario.output_tokens)
        target.suspend()
        for metric, value in zip(scenario.metrics, measured, strict=True):
            self._note(metric, target, value)

    async def _attempt(self, target: Target, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await work
        except (TargetError, HttpError, OSError, ValueError) as error:
            self.failures[target.name] = str(error) or f"no answer within {ATTEMPT_SECONDS:.0f} s"
            self.progress.say(f"{target.name} failed and takes no further part: {self.failures[target.name]}")
            target.stop()

    def _alive(self) -> list[Target]:
        return [target for target in self.targets if target.name not in self.failures]

    def _note(self, metric: Metric, target: Target, value: float) -> None:
        self.values.setdefault(metric.key, {}).setdefault(target.name, []).append(value)
