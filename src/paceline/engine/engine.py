"""The step loop: requests in, a plan, one run of the model, accepted tokens out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from functools import partial
from typing import Any, Protocol

from paceline.adapters.adapter import Adapter, Speculators
from paceline.adapters.registry import Reader
from paceline.backends.base import Backend, Ops, Program
from paceline.engine import machine
from paceline.engine.adapters import CACHE_SHARE, Adapters
from paceline.engine.base_speculator import BaseSpeculator, Exchangeable
from paceline.engine.commit import Commit
from paceline.engine.config import EngineConfig, Machine, resolve
from paceline.engine.drafting import Drafting
from paceline.engine.live_sequences import LiveSequences
from paceline.engine.messages import (
    AdapterReply,
    EngineStats,
    FinishReason,
    Request,
    SequenceDelta,
    StepReport,
)
from paceline.engine.request_check import check_request
from paceline.engine.runner import Runner
from paceline.engine.scheduler import Scheduler
from paceline.engine.sequence import Sequence, State
from paceline.engine.step_timing import time_steps
from paceline.errors import InvalidRequestError, OverloadedError
from paceline.kv.cache import KVCache
from paceline.models.spec import ModelSpec
from paceline.models.tokenizer import ids_of
from paceline.sampling.sampler import Sampler
from paceline.speculation.costs import StepCosts
from paceline.speculation.decision import DraftController
from paceline.speculation.drafters.base import Progress
from paceline.speculation.reliability import ReliabilityBin

#: Seconds that a step without work waits for adapters that are being read, before messages are looked at again.
READING_WAIT_S = 0.01


class Model(Protocol):
    """What the engine needs of a ``LoadedModel``."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def weights_bytes(self) -> int: ...

    @property
    def build(self) -> Callable[[Ops], None]: ...

    def build_with(self, capture: Iterable[int]) -> Callable[[Ops], None]: ...


class Engine:
    """Serves requests with one model on one backend. Not thread-safe: one thread calls ``add``, ``abort``, ``step``.

    ``eos_ids``: end-of-sequence tokens, by default those that the model's config names. ``choices``: what was chosen
    automatically, with reasons. ``context_length``: the most tokens of one sequence, prompt and output.
    ``read_adapter``: from a folder to an adapter's weights; None: requests with adapters are refused. ``speculators``:
    who drafts with speculators that come with them, part of the controller. ``exchangeable``: who drafts for the base
    model; None: its speculator cannot be exchanged.
    """

    def __init__(
        self,
        model: Model,
        backend: Backend,
        config: EngineConfig | None = None,
        *,
        eos_ids: Iterable[int] | None = None,
        controller: DraftController | None = None,
        limits: Machine | None = None,
        read_adapter: Reader | None = None,
        speculators: Speculators | None = None,
        exchangeable: Exchangeable | None = None,
    ) -> None:
        config = config or EngineConfig()
        limits = limits or Machine(machine.free_memory(), machine.usable_cores())
        self.spec = model.spec
        cache_spec = model.spec.cache_spec(config.kv_cache_dtype or backend.cache_dtype)
        self.config, self.choices = resolve(config, cache_spec, model.spec.context_length, limits, model.weights_bytes)
        self.context_length = self.config.context_length
        self.eos_ids = frozenset(ids_of(model.config.get("eos_token_id")) if eos_ids is None else eos_ids)
        backend.allocate_cache(cache_spec, self.config.num_blocks)
        self.cache = KVCache(
            cache_spec,
            self.config.num_blocks,
            max_sequences=self.config.max_running,
            max_tokens=self.context_length,
            prefix_cache=self.config.prefix_cache,
            warm_blocks=self.config.warm_blocks,
        )
        draft_rows = 0 if controller is None else self.config.max_draft_rows
        self._stats = EngineStats(kv_blocks_total=self.cache.num_blocks)
        self.adapters = Adapters(
            backend,
            self._stats,
            read_adapter,
            max_adapters=config.max_adapters,
            cache_bytes=int(limits.free_bytes * CACHE_SHARE)
            if config.adapter_cache_bytes is None
            else config.adapter_cache_bytes,
            speculators=speculators,
        )
        self.scheduler = Scheduler(self.cache, self.config.max_rows, self.config.max_running, draft_rows, self.adapters)
        vocab_size = model.spec.vocab_size
        self._layers: tuple[int, ...] = () if controller is None else controller.layers
        self._compile = partial(_compile, model, backend, self.config.max_rows + draft_rows)
        program = self._compile(self._layers)
        sampler = Sampler(vocab_size, coupled=config.speculation.sampling == "coupled")
        self.runner = Runner(program, self.cache, backend, sampler, vocab_size, self.eos_ids)
        self.live = LiveSequences(self.scheduler, self.cache, self.adapters, self.eos_ids, self.context_length)
        self._outbox: list[SequenceDelta] = []  # deltas that came about between steps
        self.speculator = BaseSpeculator(exchangeable)
        self.drafting: Drafting | None = None
        if controller is not None:
            self.drafting = Drafting(controller, self.scheduler, self._stats, config.speculation.max_draft)
        self._commit = Commit(self.live, self.scheduler, self.adapters, self.drafting, self._stats)

    @property
    def drafter_names(self) -> tuple[str, ...]:
        """Drafters that may propose here; none when speculation is off."""
        return () if self.drafting is None else self.drafting.controller.names

    def check(self, request: Request) -> Adapter | None:
        """The adapter that it names. Raises ``InvalidRequestError`` for a request that can never be served."""
        check_request(request, self.spec, self.context_length, self.drafter_names)
        return self.adapters.find(request.adapter)

    def add(self, request: Request) -> None:
        """Queues a request. Raises ``InvalidRequestError`` when it can never be served and ``OverloadedError`` when
        the queue is full."""
        version = self.check(request)
        if request.request_id in self.live:
            raise InvalidRequestError(f"request_id {request.request_id!r} is already being served", "request_id")
        in_flight = len(self.scheduler.running) + self.scheduler.num_waiting
        if in_flight >= self.config.max_queue + self.config.max_running:
            raise OverloadedError(f"the queue is full: {self.scheduler.num_waiting} sequences wait")
        self._outbox += self.live.add(request, version)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Ends sequence ``index`` of a request, or all of them (None), now. Unknown or finished ones are ignored: the
        client cannot know yet that they ended."""
        for sequence in self.live.of(request_id):
            if index is None or sequence.index == index:
                self._end_now(sequence, "abort")

    def load_adapter(self, name: str, path: str, *, replace: bool = False, fingerprint: str = "") -> None:
        """Begins to load the adapter in the folder ``path``; the answer is in a later report's ``replies``. Requests
        may name a new one at once, and wait for it. Running sequences keep what they have.

        ``replace``: in place of an adapter that has the name. ``fingerprint``: see ``LoadAdapter``. Raises
        ``AdapterError``, with nothing changed."""
        self.adapters.load(name, path, replace=replace, fingerprint=fingerprint)

    def unload_adapter(self, name: str) -> None:
        """From now on no request can name the adapter; its memory is free when the last sequence that uses it has
        ended. Raises ``AdapterError``."""
        self.adapters.unload(name)

    def use_speculator(self, path: str | None) -> None:
        """Begins to read the speculator in the folder ``path`` (None: the one of the start). The base model drafts with
        it from the step on whose report has the answer in ``speculator_replies``; nothing else changes."""
        self.speculator.use(path)

    def has_work(self) -> bool:
        """Whether ``step`` has something to do or to say."""
        return bool(self._outbox) or self.scheduler.has_work() or self.adapters.busy or self.speculator.busy

    def step(self) -> StepReport:
        """Plans and computes one step; what came of it, and of aborts since the last one. An exception means that the
        engine's state can no longer be trusted."""
        started = time.perf_counter()
        replies, exchanged = self._take_adapters(), self.speculator.poll()
        deltas, self._outbox = self._outbox, []
        planned = self.scheduler.schedule()
        if not planned:
            if not deltas and not replies and not exchanged:
                self._wait_for_reading()
            return StepReport(deltas=deltas, stats=self.stats(), replies=replies, speculator_replies=exchanged)
        if self.drafting is not None:
            self.drafting.plan(planned)
            self._show_layers(self.drafting.controller.layers)
        rows = self._commit.count_rows(planned)
        running = time.perf_counter()
        results = self.runner.run(planned)
        seconds = time.perf_counter() - running
        progress: list[Progress] = []
        start = 0
        for sequence, result in zip(planned, results, strict=True):
            part = Progress(sequence, [], sequence.draft_rows, sequence.computed)
            if self.runner.hidden is not None and self.drafting is not None:
                part.rows, part.hidden = result.rows_from(start), self.runner.hidden
                part.layers = self._layers
            start += sequence.rows + sequence.draft_rows
            delta = self._commit.take(sequence, result, seconds)
            if delta is not None:
                deltas.append(delta)
                part.token_ids = delta.token_ids
            progress.append(part)
        if self.drafting is not None:
            self.drafting.observe(progress, rows, seconds)
            for sequence in planned:
                if sequence.state is State.FINISHED:
                    self.drafting.forget(sequence)
        seconds = time.perf_counter() - started
        self._stats.steps += 1
        self._stats.rows += rows
        self._stats.step_seconds += seconds
        report = StepReport(deltas=deltas, stats=self.stats(), step_rows=rows, step_time=seconds, replies=replies)
        report.speculator_replies = exchanged
        return report

    def stats(self) -> EngineStats:
        """Gauges as of now and counters since the start. The same object every time."""
        stats, scheduler, cache = self._stats, self.scheduler, self.cache
        stats.running = len(scheduler.running)
        stats.waiting = scheduler.num_waiting
        stats.kv_blocks_used = cache.num_used_blocks
        stats.prefix_cache_queries = cache.queries
        stats.prefix_cache_hits = cache.hits
        stats.preemptions = scheduler.num_preemptions
        return stats

    def reset_speculation(self) -> None:
        """Drafters and controller forget all texts, as after a start; for measuring. Only when nothing runs."""
        if self.drafting is not None:
            self.drafting.controller.reset()

    def speculation_reliability(self) -> Seq[ReliabilityBin]:
        """How far predicted survival of draft tokens came true; empty when speculation is off."""
        return () if self.drafting is None else self.drafting.controller.reliability()

    def time_steps(self) -> StepCosts:
        """What steps of the model cost on this machine. Only before the first request."""
        assert self.live.untouched
        config = self.config
        program = self._compile(self._layers)  # one that goes again, and the memory of its largest steps with it
        return time_steps(program, self.cache.spec, config.num_blocks, config.max_rows, self.context_length)

    def check_integrity(self) -> None:
        """Asserts that queues, block tables, reference counts and free lists agree. For tests and idle times."""
        live = list(self.live)
        self.scheduler.check_integrity(live)
        self.cache.check_integrity(sequence.table for sequence in live)
        self.adapters.check_integrity(live)

    def _end_now(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> None:
        """Ends a sequence between steps; the next report says so."""
        delta = self.live.finish(sequence, reason)
        delta.error = error
        self._outbox.append(delta)
        if self.drafting is not None:
            self.drafting.forget(sequence)

    def _take_adapters(self) -> list[AdapterReply]:
        """What came of loading adapters since the last step. Sequences whose adapter cannot be used end."""
        replies, failed = self.adapters.poll()
        for version, reason in failed:
            for sequence in [one for one in self.live if one.version is version]:
                self._end_now(sequence, "error", reason)
        for key in self.adapters.registry.take_dropped():
            if self.drafting is not None:
                self.drafting.controller.forget_adapter(key)
        return replies

    def _wait_for_reading(self) -> None:
        if self.adapters.busy:
            self.adapters.registry.wait(READING_WAIT_S)
        else:
            self.speculator.wait(READING_WAIT_S)

    def _show_layers(self, layers: tuple[int, ...]) -> None:
        """Drafters came or went that read hidden states: the program is recorded anew where they want other layers."""
        if layers != self._layers:
            self.runner.program, self._layers = self._compile(layers), layers


def _compile(model: Model, backend: Backend, max_rows: int, layers: tuple[int, ...]) -> Program:
    """Layers that somebody wants to see are part of the program; without any it is the plain one."""
    return backend.compile(model.build_with(layers) if layers else model.build, max_rows)
