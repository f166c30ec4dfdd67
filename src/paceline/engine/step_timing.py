"""Times steps of the real model by their number of rows, before the first request: what speculation decides by."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from paceline.backends.base import Batch, CacheSpec, Program
from paceline.speculation.costs import ContextCosts, StepCosts

#: Every count up to a kernel's block of rows, then fewer: what lies between two counts is interpolated.
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 48, 64)
CONTEXT = 16  # tokens before the rows of the curve: attention is counted on its own
LONG_CONTEXT, LONG_SEQUENCES, LONG_ROWS = 640, 4, 4  # what attention costs is seen from these
RUNS, FEW_RUNS, FEW_FROM = 3, 2, 24  # large steps vary less, and cost more to repeat
BUDGET = 1.0  # seconds, after which the curve ends where it is


def time_steps(
    program: Program, spec: CacheSpec, num_blocks: tuple[int, ...], max_rows: int, context_length: int
) -> StepCosts:
    """What steps of the real model cost. Writes to the first blocks of the cache, which must be unused."""
    timer = _Timer(program, spec, min(num_blocks), context_length)
    context = min(CONTEXT, timer.room(1) // 2)
    most = min(max_rows, timer.room(1) - context)
    timer.seconds(1, context, 1, runs=1)  # the first one touches memory
    measured: list[tuple[int, float]] = []
    started = time.perf_counter()
    logits = 0.0
    for rows in ROWS:
        if rows > most or time.perf_counter() - started > BUDGET:
            break
        runs = RUNS if rows < FEW_FROM else FEW_RUNS
        measured.append((rows, timer.seconds(1, context, rows, runs=runs)))
        if rows == FEW_FROM:
            without = timer.seconds(1, context, rows, logits=1, runs=runs)
            logits = max(0.0, (measured[-1][1] - without) / (rows - 1))
    return StepCosts(measured, _contexts(timer, context, max_rows), logits)


def _contexts(timer: _Timer, short: int, max_rows: int) -> ContextCosts:
    """From steps of a few sequences behind short and long contexts, with one row and with several each."""
    rows = min(LONG_ROWS, max_rows)
    sequences = min(LONG_SEQUENCES, max_rows // rows)
    long = min(LONG_CONTEXT, timer.room(sequences) - rows)
    windows = tuple(timer.spec.group_windows[group] for group in timer.spec.layer_group)
    costs = ContextCosts(known=short, windows=windows if any(windows) else ())
    keys = costs.keys(long) * sequences
    if keys <= 0:
        return costs
    for count in (1, rows):
        timer.seconds(sequences, long, count, runs=1)
    one, several = (
        (timer.seconds(sequences, long, count, runs=RUNS) - timer.seconds(sequences, short, count, runs=RUNS)) / keys
        for count in (1, rows)
    )
    key_row = max(0.0, (several - one) / (rows - 1)) if rows > 1 else 0.0
    return replace(costs, key=max(0.0, one - key_row), key_row=key_row)


@dataclass(frozen=True, slots=True)
class _Timer:
    program: Program
    spec: CacheSpec
    num_blocks: int
    context_length: int

    def room(self, sequences: int) -> int:
        """Tokens that each of ``sequences`` may have."""
        return min(self.num_blocks // sequences * self.spec.block_size, self.context_length)

    def seconds(self, sequences: int, context: int, rows: int, *, logits: int | None = None, runs: int) -> float:
        """Of a step in which ``sequences`` verify a chain of ``rows`` rows each behind ``context`` tokens. They lie in
        the first blocks of every group. ``logits``: rows that get any; None: all. The least of a few runs: what else
        the machine does meanwhile only adds to it, and differences between counts are what matters."""
        batch = self._batch(sequences, context, rows, logits)
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            self.program.run(batch)
            times.append(time.perf_counter() - started)
        return min(times)

    def _batch(self, sequences: int, context: int, rows: int, logits: int | None) -> Batch:
        spec = self.spec
        width = -(-(context + rows) // spec.block_size)
        tables = np.arange(sequences * width, dtype=np.int32).reshape(sequences, width)
        places = np.tile(np.arange(context, context + rows, dtype=np.int32), sequences)
        first_slots = np.repeat(tables[:, 0] * spec.block_size, rows)
        total = sequences * rows
        return Batch(
            token_ids=np.zeros(total, dtype=np.int32),
            positions=places,
            row_starts=np.arange(0, total + 1, rows, dtype=np.int32),
            context_lens=np.full(sequences, context, dtype=np.int32),
            slots=np.tile(first_slots + places, (spec.num_groups, 1)).astype(np.int32),
            block_tables=np.tile(tables, (spec.num_groups, 1, 1)),
            logit_rows=np.arange(total if logits is None else logits, dtype=np.int32),
        )
