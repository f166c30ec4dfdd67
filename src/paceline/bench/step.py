"""How long a step takes, against the least it could take: reading the same bytes from memory.

Decoding one sequence reads every weight once, so the time of a plain read loop over as many bytes, on the same threads
in the same run, is the floor. The measurements take turns: read loop, 1 row, 2 rows, ..., and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from paceline.backends.base import Batch, Program, StepOutput
from paceline.bench.noise import NoiseGuard
from paceline.bench.prompts import PromptSource
from paceline.bench.statistics import quantile
from paceline.engine import factory
from paceline.engine.config import EngineConfig
from paceline.engine.engine import Engine
from paceline.engine.machine import usable_cores
from paceline.engine.messages import Request
from paceline.models.loading import load_model
from paceline.models.sources import resolve_model
from paceline.models.tokenizer import load_tokenizer
from paceline.sampling.params import SamplingParams

WARM_STEPS = 3
Values = dict[str, list[float]]


class TimedProgram:
    """A program that notes how long its last run took."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.max_rows = program.max_rows
        self.seconds = 0.0

    def run(self, batch: Batch) -> StepOutput:
        start = time.perf_counter()
        output = self.program.run(batch)
        self.seconds = time.perf_counter() - start
        return output


@dataclass(slots=True)
class StepBench:
    """An engine in this process, and what was measured: seconds by name, one value (a median) for each round.

    Names: ``read`` (the read loop), ``step N`` and ``model N`` (a whole decode step of N rows, and the model in it),
    ``prefill N`` (a prompt of N tokens up to its first token).
    """

    engine: Engine
    program: TimedProgram
    backend: str
    threads: int
    context: int
    step_bytes: int  # what a step of one row reads: weights, and keys and values of its context
    read: Callable[[], float]
    prompts: PromptSource
    guard: NoiseGuard = field(default_factory=NoiseGuard)
    values: Values = field(default_factory=dict)
    _serial: int = 0

    def run(self, rows: Sequence[int], lengths: Sequence[int], rounds: int, steps: int) -> None:
        """Measures ``rounds`` rounds of ``steps`` decode steps for each number of rows, and of one prefill a length.

        Raises ``DataError``, before anything is measured, when there are too few texts for the prompts."""
        fits = [length for length in lengths if length < self.engine.context_length]
        self.prompts.reserve([self.context] * max(rows) + fits * (rounds + 1))
        prefixes = [self.prompts.take(self.context) for _ in range(max(rows))]
        for round_number in range(rounds + 1):
            if round_number == 1:  # the first round only warms up
                self.values.clear()
            self.guard.sample()
            self._note("read", [self.read() for _ in range(steps)])
            for count in rows:
                self._decode(prefixes[:count], steps)
            for length in fits:
                self._note(f"prefill {length}", [self._prefill(self.prompts.take(length))])

    def _decode(self, prompts: Sequence[Sequence[int]], steps: int) -> None:
        """Decode steps of all ``prompts`` together, behind their prefill (which the prefix cache shortens)."""
        names = [self._add(prompt, 2 * (steps + WARM_STEPS) + len(prompts)) for prompt in prompts]
        while self._step() != len(prompts):
            assert self.engine.has_work(), "the engine ended requests before they decoded together"
        whole, model = [], []
        for step in range(WARM_STEPS + steps):
            start = time.perf_counter()
            rows = self._step()
            seconds = time.perf_counter() - start
            if step >= WARM_STEPS:
                assert rows == len(prompts), f"a decode step of {len(prompts)} sequences had {rows} rows"
                whole.append(seconds)
                model.append(self.program.seconds)
        for name in names:
            self.engine.abort(name)
        self._drain()
        self._note(f"step {len(prompts)}", whole)
        self._note(f"model {len(prompts)}", model)

    def _prefill(self, prompt: Sequence[int]) -> float:
        start = time.perf_counter()
        self._add(prompt, 1)
        self._drain()
        return time.perf_counter() - start

    def _add(self, prompt: Sequence[int], max_tokens: int) -> str:
        self._serial += 1
        name = f"bench-{self._serial}"
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, seed=0)
        self.engine.add(Request(request_id=name, prompt_ids=list(prompt), params=params, arrival_time=time.time()))
        return name

    def _step(self) -> int:
        """One step; the rows it computed."""
        before = self.engine.stats().rows
        self.engine.step()
        return self.engine.stats().rows - before

    def _drain(self) -> None:
        while self.engine.has_work():
            self.engine.step()

    def _note(self, name: str, seconds: Sequence[float]) -> None:
        self.values.setdefault(name, []).append(quantile(seconds, 0.5))


def open_bench(
    model: str, *, backend: str = "auto", threads: int | None = None, context: int = 128, data: Path | None = None
) -> StepBench:
    """Loads ``model`` into an engine in this process. ``context``: tokens before the decoded ones; ``data``: a folder
    of texts for the prompts."""
    path = resolve_model(model).path
    threads = threads or usable_cores()
    opened, _ = factory.open_backend(backend, threads)
    torch.set_num_threads(1 if opened.name == "cpu" else threads)
    loaded = load_model(path, opened)
    config = EngineConfig(threads=threads)
    engine = Engine(loaded, opened, config)
    program = TimedProgram(engine.runner.program)
    engine.runner.program = program
    cache = loaded.spec.cache_spec(opened.cache_dtype)
    kv_bytes = sum(cache.block_bytes(group) for group in range(cache.num_groups)) * context // cache.block_size
    step_bytes = loaded.streamed_bytes + kv_bytes
    tokenizer = load_tokenizer(path)
    return StepBench(
        engine=engine,
        program=program,
        backend=opened.name,
        threads=threads,
        context=context,
        step_bytes=step_bytes,
        read=read_loop(step_bytes, threads),
        prompts=PromptSource(lambda text: tokenizer.encode(text, add_special_tokens=False), data),
    )


def read_loop(size: int, threads: int) -> Callable[[], float]:
    """A function that reads ``size`` bytes once with ``threads`` threads and gives the seconds it took.

    Natively (the kernels' own thread team, huge pages) where the C++ core is built, else with torch.
    """
    try:
        from paceline import _cpu
    except ImportError:
        words = torch.ones(size // 8, dtype=torch.int64)
        return lambda: timed(words.sum)
    team = _cpu.Team(threads)
    buffer = _cpu.StreamBuffer(size)
    return lambda: timed(lambda: buffer.read(team))


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
