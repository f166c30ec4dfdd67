"""What LoRA adapters add to a decode step: ``python -m paceline.bench.adapters``.

Steps of the same sequences without adapters and with 1, 4 and 8 of them (all modules of all layers, random weights)
take turns; the figure is the ratio of a step to the one without adapters next to it, its median over the rounds. The
time to read the weights of four adapters once is what these would add if that were all of their cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from paceline.backends.base import Batch
from paceline.backends.lora import LoraPart, Site
from paceline.backends.registry import get_backend
from paceline.bench.roofline.reading import read_loop, timed
from paceline.bench.statistics import quantile
from paceline.engine.machine import usable_cores
from paceline.models.loading import LoadedModel, load_model
from paceline.models.sources import resolve_model

CONTEXT = 128  # tokens behind which each sequence decodes
BLOCKS = CONTEXT // 16 + 1  # of a sequence
FEW = 4
COUNTS = (0, 1, FEW, 8)
BYTES = 2  # of one adapter weight beside quantized ones


def random_adapter(shapes: Mapping[Site, tuple[int, int]], rank: int, seed: int) -> dict[Site, LoraPart]:
    """An adapter of every weight that can have one."""
    draw = torch.Generator().manual_seed(seed)
    return {
        site: LoraPart(
            torch.randn(rank, columns, generator=draw), torch.randn(out, rank, generator=draw) / columns, 1.0
        )
        for site, (out, columns) in shapes.items()
    }


def make_batch(model: LoadedModel, sequences: int, rows: int, context: int) -> Batch:
    """``rows`` tokens of each sequence behind ``context`` cached ones; a sequence's blocks lie one after the other."""
    table = np.arange(sequences * BLOCKS, dtype=np.int32).reshape(sequences, BLOCKS)
    places = np.tile(np.arange(context, context + rows, dtype=np.int32), sequences)
    slots = np.repeat(table[:, 0] * 16, rows) + places
    groups = model.spec.cache_spec().num_groups
    return Batch(
        token_ids=np.arange(sequences * rows, dtype=np.int32) * 37 % model.spec.vocab_size,
        positions=places,
        row_starts=np.arange(sequences + 1, dtype=np.int32) * rows,
        context_lens=np.full(sequences, context, dtype=np.int32),
        slots=np.tile(slots, (groups, 1)).astype(np.int32),
        block_tables=np.tile(table, (groups, 1, 1)),
        logit_rows=np.arange(1, sequences + 1, dtype=np.int32) * rows - 1,
    )


def measure(model_name: str | None, threads: int, sequences: int, rank: int, rounds: int) -> dict[int, list[float]]:
    """Seconds of a decode step of ``sequences`` sequences by the number of adapters among them, one value a round."""
    backend = get_backend("cpu", threads=threads)
    model = load_model(resolve_model(model_name).path, backend, context_length=1024)
    cache = model.spec.cache_spec()
    backend.allocate_cache(cache, [sequences * BLOCKS] * cache.num_groups)
    program = backend.compile(model.build, max_rows=sequences * CONTEXT)
    program.run(make_batch(model, sequences, CONTEXT, 0))
    for slot in range(max(COUNTS)):
        backend.load_adapter(slot, random_adapter(model.adapter_shapes, rank, slot))
    step = make_batch(model, sequences, 1, CONTEXT)
    order = np.arange(sequences, dtype=np.int32)
    batches = {n: replace(step, adapters=order % n if n else None) for n in COUNTS}
    seconds: dict[int, list[float]] = {n: [] for n in COUNTS}
    for round_number in range(rounds + 3):
        for count, batch in batches.items():
            program.run(batch)
            start = time.perf_counter()
            program.run(batch)
            if round_number >= 3:
                seconds[count].append(time.perf_counter() - start)
    size = FEW * adapter_bytes(model, rank)
    read = read_loop(size, threads)
    reading = quantile([timed(read) for _ in range(20)], 0.5)
    print(f"{FEW} adapters: {size / 1e6:.1f} MB, read in {reading * 1e3:.2f} ms")
    return seconds


def adapter_bytes(model: LoadedModel, rank: int) -> int:
    """What a step reads of one adapter."""
    return BYTES * rank * sum(out + columns for out, columns in model.adapter_shapes.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each number of adapters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None, help="a model by name or path (default: the default model)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args(arguments)
    seconds = measure(options.model, options.threads, options.sequences, options.rank, options.rounds)
    for count, values in seconds.items():
        ratio = quantile([value / base for value, base in zip(values, seconds[0], strict=True)], 0.5)
        print(f"{count} adapters: {quantile(values, 0.5) * 1e3:6.2f} ms, {ratio:.2f} x the step without")


if __name__ == "__main__":
    main()
