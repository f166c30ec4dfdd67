"""The run: sets and loads, each in rounds without and with drafts, on an engine that has seen none of it before."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paceline.bench.noise import NoiseGuard
from paceline.bench.prompts import DataError
from paceline.bench.speculation.calibration import Calibration
from paceline.bench.speculation.closed_loop import ClosedLoop, Planned, Prompter
from paceline.bench.speculation.measurement import Measurement
from paceline.bench.speculation.turns import Pass
from paceline.bench.speculation.workloads import Conversation, Workload, load_workload
from paceline.bench.text import passage
from paceline.engine.engine import Engine
from paceline.engine.factory import build_engine
from paceline.engine.messages import EngineReady
from paceline.engine.options import EngineOptions
from paceline.models.tokenizer import Tokenizer, load_tokenizer

WARM_UPS = 3  # requests before each pass, as Spec-Bench does; about texts that no set has
WARM_TOKENS = 24

Say = Callable[[str], None]


class EngineSession:
    """An engine that can be made to forget what it has learnt: texts that its drafters remember, acceptance that its
    controller has seen, prefixes in its cache.

    Without that, the second pass over a prompt would find the first one's answer and draft it whole.
    """

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.engine: Engine
        self.ready: EngineReady
        self.tokenizer: Tokenizer
        self._build()
        self.tokenizer = load_tokenizer(self.ready.path)

    @property
    def way(self) -> str:
        """How it forgets."""
        if self.ready.drafters:
            return "drafters, controller and prefix cache forget everything"
        return "the prefix cache forgets everything (there are no drafters)"

    def renew(self) -> None:
        """Forgets; call it while no request is open."""
        self.engine.reset_speculation()
        self.engine.cache.clear_prefix_cache()
        gc.collect()

    def _build(self) -> None:
        self.engine, self.ready = build_engine(self.options, own_process=True)


@dataclass(frozen=True, slots=True)
class Settings:
    """``prompts`` None: as many as a load needs, see ``prompts_for``; 0: all of a set. ``adapter``: who answers."""

    loads: Sequence[int] = (1, 8, 32)
    prompts: int | None = None
    rounds: int = 2
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    adapter: str | None = None

    def prompts_for(self, load: int) -> int | None:
        """Conversations of one pass; None: all. By default twice the load, and at low loads more, for the medians."""
        if self.prompts is not None:
            return self.prompts or None
        return max(12, 2 * load, min(3 * load, 24))


@dataclass(slots=True)
class SpeculationBench:
    """Measures. ``notes``: what was skipped or left out, for the report."""

    session: EngineSession
    settings: Settings
    data: Path | None = None
    say: Say = print
    guard: NoiseGuard = field(default_factory=NoiseGuard)
    measurements: list[Measurement] = field(default_factory=list)
    calibration: Calibration = field(default_factory=Calibration)
    notes: list[str] = field(default_factory=list)

    def run(self, workloads: Sequence[Workload], instead: Sequence[Workload] = ()) -> None:
        """Measures every set at every load; a set that the data folder lacks is noted, and when it lacks all, those of
        ``instead`` are measured. Raises ``DataError`` when nothing is left to measure, before measuring anything."""
        plans = self._plans(workloads) or self._plans(instead)
        if not plans:
            raise DataError("; ".join(self.notes) or "there is nothing to measure")
        for name, plan in plans.items():
            for load in self.settings.loads:
                self._measure(name, load, plan[: self.settings.prompts_for(load)])

    def _plans(self, workloads: Sequence[Workload]) -> dict[str, list[Planned]]:
        return {workload.name: plan for workload in workloads if (plan := self._plan(workload))}

    def _plan(self, workload: Workload) -> list[Planned]:
        """The set's conversations that fit the context, as many as the largest load takes."""
        try:
            conversations = load_workload(workload, self.data, self.settings.seed)
        except DataError as error:
            self._note(f"skipped {workload.name}: {error}")
            return []
        counts = [self.settings.prompts_for(load) for load in self.settings.loads]
        most = None if None in counts else max(count for count in counts if count is not None)
        plan, too_long = self._fitting(conversations, most)
        if too_long:
            self._note(
                f"{workload.name}: left out {too_long} prompts that, with {self.settings.max_tokens} tokens of output, "
                f"exceed the context of {self.session.engine.context_length}"
            )
        if most is not None and len(plan) < most:
            self._note(f"{workload.name}: it has only {len(plan)} of the {most} prompts that were asked for")
        return plan

    def _fitting(self, conversations: Sequence[Conversation], most: int | None) -> tuple[list[Planned], int]:
        prompter = Prompter(self.session.tokenizer)
        plan: list[Planned] = []
        too_long = 0
        for conversation in conversations:
            if most is not None and len(plan) == most:
                break
            ids = prompter.ids(conversation.opening())
            if len(ids) + self.settings.max_tokens > self.session.engine.context_length:
                too_long += 1
            else:
                plan.append(Planned(conversation, ids))
        return plan, too_long

    def _measure(self, name: str, load: int, planned: Sequence[Planned]) -> None:
        measurement = Measurement(name, load, planned)
        for number in range(self.settings.rounds):
            # Who goes first alternates, so that a slow drift of the machine favours nobody.
            for speculative in (False, True) if number % 2 == 0 else (True, False):
                began = time.perf_counter()
                passed = self._pass(load, planned, speculative)
                (measurement.on if speculative else measurement.off).append(passed)
                self.say(
                    f"{name}, load {load}, round {number + 1} of {self.settings.rounds}, "
                    f"{'on' if speculative else 'off'}: {passed.tokens} tokens in {time.perf_counter() - began:.1f} s"
                )
        cut_short = measurement.off[0].cut_short
        if cut_short:
            self._note(f"{name}, load {load}: {cut_short} conversations ended early, at the end of the context")
        self.measurements.append(measurement)

    def _pass(self, load: int, planned: Sequence[Planned], speculative: bool) -> Pass:
        """One pass on an engine that has forgotten everything and has then been warmed up."""
        session, settings = self.session, self.settings
        session.renew()
        self.guard.sample()
        prompter = Prompter(session.tokenizer)

        def loop(load: int, max_tokens: int) -> ClosedLoop:
            return ClosedLoop(
                session.engine, prompter, load, max_tokens, settings.temperature, speculative, settings.adapter
            )

        loop(WARM_UPS, min(WARM_TOKENS, settings.max_tokens)).run(warm_ups(prompter, session.engine.context_length))
        passed = loop(load, settings.max_tokens).run(planned)
        if speculative:
            self.calibration.add(session.engine)
        return passed

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.say(text)


def warm_ups(prompter: Prompter, context_length: int) -> list[Planned]:
    """Small requests that have nothing in common with any set."""
    plan = []
    for i in range(WARM_UPS):
        conversation = Conversation(f"warm-up {i}", "", (passage(9_000 + i, 3),))
        ids = prompter.ids(conversation.opening())
        plan.append(Planned(conversation, ids[-(context_length - WARM_TOKENS) :]))
    return plan


def engine_options(
    model: str,
    loads: Sequence[int],
    backend: str,
    threads: int | None,
    prefix_cache: bool,
    speculation: Any,
    adapter: Path | None = None,
) -> EngineOptions:
    """An engine that can hold the largest load in one step. ``adapter``: the folder of the one that answers."""
    from paceline.engine.config import MAX_RUNNING

    most = max(loads)
    return EngineOptions(
        model=model,
        backend=backend,
        threads=threads,
        max_running=most if most > MAX_RUNNING else None,
        prefix_cache=prefix_cache,
        speculation=speculation,
        adapters={} if adapter is None else {adapter.name: str(adapter)},
    )
