"""Times steps of the real model by their number of rows, before the first request: what speculation decides by."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from paceline.backends.base import Batch, CacheSpec, Program

Times = list[tuple[int, float]]

#: Every count up to a kernel's block of rows, then fewer: what lies between two counts is interpolated.
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 48, 64)
CONTEXT = 128  # tokens before the rows
RUNS, FEW_RUNS, FEW_FROM = 3, 2, 24  # large steps vary less, and cost more to repeat
BUDGET = 1.0  # seconds, after which the curve ends where it is


def time_steps(
    program: Program, spec: CacheSpec, num_blocks: tuple[int, ...], max_rows: int
) -> list[tuple[int, float]]:
    """(rows, median seconds) of steps of one sequence, logits of every row included. Writes to the first blocks of
    the cache, which must be unused. At least one pair."""
    capacity = min(num_blocks) * spec.block_size
    context = min(CONTEXT, capacity // 2)
    most = min(max_rows, capacity - context)
    started = time.perf_counter()
    measured: list[tuple[int, float]] = []
    program.run(_batch(spec, context, 1))  # the first one touches memory
    for rows in ROWS:
        if rows > most or time.perf_counter() - started > BUDGET:
            break
        batch = _batch(spec, context, rows)
        measured.append((rows, median(_seconds(program, batch) for _ in range(RUNS if rows < FEW_FROM else FEW_RUNS))))
    return measured


def _seconds(program: Program, batch: Batch) -> float:
    started = time.perf_counter()
    program.run(batch)
    return time.perf_counter() - started


def _batch(spec: CacheSpec, context: int, rows: int) -> Batch:
    """One sequence that verifies a chain behind ``context`` tokens; it lies in the first blocks of every group."""
    places = np.arange(context, context + rows, dtype=np.int32)
    blocks = np.arange(-(-(context + rows) // spec.block_size), dtype=np.int32)
    groups = spec.num_groups
    return Batch(
        token_ids=np.zeros(rows, dtype=np.int32),
        positions=places,
        row_starts=np.array([0, rows], dtype=np.int32),
        context_lens=np.array([context], dtype=np.int32),
        slots=np.tile(places, (groups, 1)),
        block_tables=np.tile(blocks, (groups, 1, 1)),
        logit_rows=np.arange(rows, dtype=np.int32),
    )
