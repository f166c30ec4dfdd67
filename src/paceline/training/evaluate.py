"""What a drafter is worth in the engine: every draft is verified whole, so that each position is counted."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from paceline.adapters.peft import read_adapter
from paceline.backends.base import Backend
from paceline.engine.config import EngineConfig
from paceline.engine.engine import Engine
from paceline.engine.factory import load_adapters
from paceline.engine.messages import DrafterStats, Request
from paceline.models.loading import LoadedModel
from paceline.sampling.params import SamplingParams
from paceline.speculation.decision import Decision, StepShape
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Drafter, Progress, SequenceView
from paceline.speculation.reliability import ReliabilityBin


class WholeDrafts:
    """A controller that verifies all that its drafter proposes, ``length`` tokens at most."""

    def __init__(self, drafter: Drafter, length: int) -> None:
        self.names: tuple[str, ...] = (drafter.name,)
        self.layers = drafter.layers
        self.seconds = 0.0  # in the drafter
        self.calls = 0
        self._drafter = drafter
        self._length = length

    def choose(self, sequences: Seq[SequenceView], limits: Seq[int], shape: StepShape) -> Decision:
        lengths = [min(limit, self._length) for limit in limits]
        started = time.perf_counter()
        proposed = self._drafter.propose(sequences, lengths)
        self.seconds += time.perf_counter() - started
        self.calls += 1
        drafts: list[Draft | None] = [None if d is None else d.trim(n) for d, n in zip(proposed, lengths, strict=True)]
        return Decision(drafts)

    def observe(self, progress: Seq[Progress], shape: StepShape, rows: int, seconds: float) -> None:
        started = time.perf_counter()
        self._drafter.observe(progress)
        self.seconds += time.perf_counter() - started

    def forget_adapter(self, adapter: str) -> None:
        """There are none here."""

    def forget(self, sequence: SequenceView) -> None:
        self._drafter.forget(sequence)

    def reliability(self) -> Seq[ReliabilityBin]:
        return ()

    def reset(self) -> None:
        self._drafter.reset()


@dataclass(frozen=True, slots=True)
class Acceptance:
    """``length``: tokens of a step that sampled, its own included. ``accepted_per_position[k]``: of the drafts that had
    position ``k``, those of which it was accepted (and so all before it). ``drafter_seconds``: of a step, proposing and
    observing; ``step_seconds``: of the model's part of one."""

    length: float
    accepted_per_position: list[float]
    drafter_seconds: float
    step_seconds: float
    tokens: int
    steps: int


def acceptance(
    model: LoadedModel,
    backend: Backend,
    drafter: Drafter,
    prompts: Seq[Seq[int]],
    params: SamplingParams,
    *,
    length: int,
    eos_ids: frozenset[int] | None = None,
    running: int = 1,
    adapter: Path | None = None,
) -> Acceptance:
    """Has the engine answer ``prompts`` (token ids) with whole drafts of ``length`` tokens, ``running`` at a time.
    ``adapter``: the folder of the one that answers; None: the base model."""
    controller = WholeDrafts(drafter, length)
    config = EngineConfig(max_running=running, max_queue=len(prompts), prefix_cache=False)
    read = None if adapter is None else partial(read_adapter, shapes=model.adapter_shapes, base="the base model")
    engine = Engine(model, backend, config, eos_ids=eos_ids, controller=controller, read_adapter=read)
    name = None
    if adapter is not None:
        name = "measured"
        load_adapters(engine, {name: str(adapter)})
    params = msgspec.structs.replace(params, seed=params.seed or 0)
    for number, prompt in enumerate(prompts):
        request = Request(
            request_id=str(number), prompt_ids=list(prompt), params=params, arrival_time=time.time(), adapter=name
        )
        engine.add(request)
    tokens = steps = 0
    while engine.has_work():
        report = engine.step()
        tokens += sum(len(delta.token_ids) for delta in report.deltas)
        steps += sum(1 for delta in report.deltas if delta.token_ids)
    stats = engine.stats()
    counted = next((one for one in stats.drafters if one.drafter == drafter.name), DrafterStats(drafter=drafter.name))
    shares = [
        accepted / drafted
        for accepted, drafted in zip(counted.accepted_per_position, counted.drafted_per_position, strict=True)
    ]
    seconds = controller.seconds / max(1, controller.calls)
    model_seconds = (stats.step_seconds - controller.seconds) / max(1, stats.steps)
    return Acceptance(tokens / max(1, steps), shares, seconds, model_seconds, tokens, steps)
