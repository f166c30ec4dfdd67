"""How long a step takes, against the least it could take.

Decoding one sequence reads every weight once, so the time of a plain read loop over as many bytes, on the same threads
in the same run, is the floor of one row. The floor of more rows and of prefills is the roofline of what the read loop
and the machine's multiply rates give (``roofline/``). The measurements take turns: ceilings, 1 row, 2 rows, ..., and
again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from paceline.backends.base import Batch, Program, StepOutput
from paceline.bench.noise import NoiseGuard
from paceline.bench.progress import Progress, Silent
from paceline.bench.prompts import DataError, PromptSource
from paceline.bench.roofline.ceilings import CeilingMeter, open_meter
from paceline.bench.roofline.inventory import attention_of, inventory, load_weighed, work_of
from paceline.bench.roofline.model_work import ModelWork
from paceline.bench.roofline.work import Work
from paceline.bench.statistics import quantile
from paceline.engine import factory
from paceline.engine.config import MAX_RUNNING, TOKENS_PER_SEQUENCE, EngineConfig
from paceline.engine.engine import Engine
from paceline.engine.machine import free_memory, usable_cores
from paceline.engine.messages import Request
from paceline.models.sources import resolve_model
from paceline.models.tokenizer import load_tokenizer
from paceline.sampling.params import SamplingParams

WARM_STEPS = 3
Values = dict[str, list[float]]
Steps = list[tuple[Work, Work]]  # products and attention of each step that something takes


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

    Names: ``read`` (the read loop), ``step N`` and ``model N`` (a whole decode step of N rows, and the model in it)
    behind the first context, ``step N at C`` and ``model N at C`` behind the others, ``prefill N`` (a prompt of N
    tokens up to its first token).
    """

    engine: Engine
    program: TimedProgram
    backend: str
    threads: int
    contexts: tuple[int, ...]
    work: ModelWork
    meter: CeilingMeter
    prompts: PromptSource
    guard: NoiseGuard = field(default_factory=NoiseGuard)
    values: Values = field(default_factory=dict)
    works: dict[str, Steps] = field(default_factory=dict)  # what each measured name needs of the machine
    skipped: list[str] = field(default_factory=list)  # what was asked for and not measured, and why
    _serial: int = 0

    @property
    def step_bytes(self) -> int:
        """What the read loop reads: as much as a step of one row behind the first context."""
        return self.meter.size

    def run(
        self, rows: Sequence[int], lengths: Sequence[int], rounds: int, steps: int, progress: Progress | None = None
    ) -> None:
        """Measures ``rounds`` rounds of ``steps`` decode steps for each number of rows behind each context, and of one
        prefill a length.

        Raises ``DataError``, before anything is measured, when there are too few texts for the prompts, or a context
        does not fit the model."""
        points = self._points(rows, steps)
        fits = [length for length in lengths if length < self.engine.context_length]
        self.skipped += [
            f"a prefill of {length} tokens: the engine's context is {self.engine.context_length}"
            for length in lengths
            if length not in fits
        ]
        needed = {context: max(count for count, own in points if own == context) for _, context in points}
        first = [context for context, count in needed.items() for _ in range(count)]
        self.prompts.reserve(first + fits * (rounds + 1))
        prefixes = {context: [self.prompts.take(context) for _ in range(count)] for context, count in needed.items()}
        progress = progress or Silent()
        progress.start(rounds + 1, f"{rounds} rounds, and one to warm up")
        for round_number in range(rounds + 1):
            if round_number == 1:  # the first round only warms up
                self.values.clear()
                self.meter.clear()
            self.meter.sample()
            self.guard.sample()
            self._note("read", [self.meter.read() for _ in range(steps)])
            for count, context in points:
                self._decode(prefixes[context][:count], steps, context)
            for length in fits:
                self._note(f"prefill {length}", [self._prefill(self.prompts.take(length))])
                self.works.setdefault(f"prefill {length}", self.work.prefill(length, self.engine.config.max_rows))
            progress.advance()

    def _points(self, rows: Sequence[int], steps: int) -> list[tuple[int, int]]:
        """Numbers of rows and contexts that the engine can run; what it cannot is noted."""
        most = self.engine.config.max_running
        room = max(self.engine.config.num_blocks) * self.engine.cache.block_size
        points = []
        for context, count in ((context, count) for context in self.contexts for count in rows):
            tokens = context + answer_tokens(steps, count)
            if count > most:
                self.skipped.append(f"{count} rows: the engine runs {most} sequences at most")
            elif tokens > self.engine.context_length:
                raise DataError(
                    f"{context} tokens of context and {tokens - context} to decode are more than the "
                    f"{self.engine.context_length} of the engine; ask for less context or fewer steps"
                )
            elif count * tokens > room:
                self.skipped.append(f"{count} rows behind {context} tokens: the cache holds {room} tokens")
            else:
                points.append((count, context))
        if not points:
            raise DataError("nothing can be measured: " + "; ".join(self.skipped))
        return points

    def _decode(self, prompts: Sequence[Sequence[int]], steps: int, context: int) -> None:
        """Decode steps of all ``prompts`` together, behind their prefill (which the prefix cache shortens)."""
        names = [self._add(prompt, answer_tokens(steps, len(prompts))) for prompt in prompts]
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
        behind = "" if context == self.contexts[0] else f" at {context}"
        self._note(f"step {len(prompts)}{behind}", whole)
        self._note(f"model {len(prompts)}{behind}", model)
        self.works.setdefault(f"step {len(prompts)}{behind}", [self.work.step(len(prompts), 1, context)])

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


def answer_tokens(steps: int, sequences: int) -> int:
    """Tokens of an answer that lasts until all of ``sequences`` decoded ``steps`` steps together."""
    return 2 * (steps + WARM_STEPS) + sequences


def open_bench(
    model: str,
    *,
    backend: str = "auto",
    threads: int | None = None,
    contexts: Sequence[int] = (128,),
    cache_tokens: int = 0,
    data: Path | None = None,
) -> StepBench:
    """Loads ``model`` into an engine in this process. ``contexts``: tokens before the decoded ones; ``cache_tokens``:
    what the cache should hold, if it is more than the engine's own choice; ``data``: a folder of texts for the
    prompts."""
    path = resolve_model(model).path
    threads = threads or usable_cores()
    opened, _ = factory.open_backend(backend, threads)
    torch.set_num_threads(1 if opened.name == "cpu" else threads)
    loaded, weighing = load_weighed(path, opened)
    wanted = int(attention_of(loaded.spec, opened).cache_bytes(cache_tokens))
    own = cache_tokens <= TOKENS_PER_SEQUENCE * MAX_RUNNING
    config = EngineConfig(threads=threads, kv_cache_bytes=None if own else min(wanted, free_memory() // 2))
    engine = Engine(loaded, opened, config)
    program = TimedProgram(engine.runner.program)
    engine.runner.program = program
    work = work_of(inventory(loaded, weighing), loaded.spec, opened)
    products, attention = work.step(1, 1, contexts[0], logit_rows=1)
    tokenizer = load_tokenizer(path)
    return StepBench(
        engine=engine,
        program=program,
        backend=opened.name,
        threads=threads,
        contexts=tuple(dict.fromkeys(contexts)),
        work=work,
        meter=open_meter(threads, {*products.ops, *attention.ops}, int(products.nbytes + attention.nbytes)),
        prompts=PromptSource(lambda text: tokenizer.encode(text, add_special_tokens=False), data),
    )
