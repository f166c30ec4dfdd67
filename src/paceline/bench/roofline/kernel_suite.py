"""Which operations of a model ``paceline bench kernel`` measures, recorded and ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from paceline.backends.base import Backend
from paceline.bench.roofline.ceilings import MOST_READ, open_meter
from paceline.bench.roofline.inventory import Use, attention_of, inventory, load_weighed
from paceline.bench.roofline.kernel_programs import (
    AttentionProgram,
    CacheShape,
    empty_step,
    layers_by_window,
    product_batch,
    record_products,
    runner,
)
from paceline.bench.roofline.kernels import Kernel, KernelBench, Shape
from paceline.bench.roofline.reading import last_level_cache, read_loop
from paceline.engine import factory
from paceline.engine.machine import free_memory, usable_cores
from paceline.models.loading import LoadedModel
from paceline.models.sources import resolve_model

CACHE_MEMORY = 512 << 20  # most bytes of keys and values for one context
MEMORY_SHARE = 0.25  # of what is free, for all of them together


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to measure: numbers of rows of the products; numbers of rows and contexts of attention; lengths of prompts
    whose attention is measured as a whole."""

    rows: Sequence[int]
    attention_rows: Sequence[int]
    contexts: Sequence[int]
    prefills: Sequence[int]


def open_bench(model_name: str, wishes: Wishes, *, backend: str = "auto", threads: int | None = None) -> KernelBench:
    """Loads a model and records its operations."""
    path = resolve_model(model_name).path
    threads = threads or usable_cores()
    opened, _ = factory.open_backend(backend, threads)
    torch.set_num_threads(1 if opened.name == "cpu" else threads)
    model, uses = _load(path, opened)
    skipped: list[str] = []
    kernels = [*_products(opened, model, uses, wishes.rows), *_attention(opened, model, wishes, skipped)]
    return KernelBench(
        backend=opened.name,
        threads=threads,
        kernels=kernels,
        meter=open_meter(threads, {name for kernel in kernels for name in kernel.work.ops}),
        evict=read_loop(min(MOST_READ, 2 * last_level_cache()), threads),
        call=empty_step(opened, model.spec.hidden_size),
        skipped=skipped,
    )


def _load(path: Path, backend: Backend) -> tuple[LoadedModel, list[Use]]:
    model, weighing = load_weighed(path, backend)
    cache = model.spec.cache_spec(backend.cache_dtype)
    backend.allocate_cache(cache, [1] * cache.num_groups)  # a program needs one; those of products do not touch it
    return model, inventory(model, weighing)


def _products(backend: Backend, model: LoadedModel, uses: Sequence[Use], rows: Sequence[int]) -> list[Kernel]:
    kernels = []
    for use in uses if rows else ():
        program = record_products(backend, model, use, max(rows))
        count = use.weight.count
        for number in rows:
            work = use.weight.work(number) * (1 / count)
            run = runner(program, product_batch(use, number))
            kernels.append(Kernel(use.name, "product", number, None, work, count, run))
    return kernels


def _attention(backend: Backend, model: LoadedModel, wishes: Wishes, skipped: list[str]) -> list[Kernel]:
    limit, kernels = model.spec.max_context, list[Kernel]()
    contexts = [context for context in wishes.contexts if context <= limit]
    skipped += [
        f"attention behind {context} tokens: the model's context ends at {limit}"
        for context in wishes.contexts
        if context > limit
    ]
    prefills = [length for length in wishes.prefills if length <= limit]
    skipped += [
        f"attention of a prompt of {length} tokens: the model's context ends at {limit}"
        for length in wishes.prefills
        if length > limit
    ]
    budget = min(CACHE_MEMORY, int(free_memory() * MEMORY_SHARE / max(1, len(contexts))))
    windows = layers_by_window([layer.window for layer in model.spec.layers])
    for window, layers in windows.items():
        for context in contexts if wishes.attention_rows else ():
            shape = _cache_shape(backend, model, layers, window, context, max(wishes.attention_rows), budget)
            kernels += _at_context(
                _Recorded(backend, model, shape, max(wishes.attention_rows)), context, wishes.attention_rows, skipped
            )
        if prefills:
            whole = CacheShape(tuple(layers), window, 1, max(prefills), backend.cache_dtype)
            recorded = _Recorded(backend, model, whole, max(prefills))
            kernels += [recorded.kernel("prefill", 1, length, 0) for length in prefills]
    return kernels


def _cache_shape(
    backend: Backend,
    model: LoadedModel,
    layers: Sequence[int],
    window: int,
    context: int,
    rows: int,
    budget: int,
) -> CacheShape:
    """As many sequences as rows, and as many layers, as ``budget`` bytes hold; sequences go first."""
    tokens = context + rows
    one = attention_of(model.spec, backend).key_bytes * tokens  # bytes of a sequence in a layer
    sequences = max(1, min(rows, int(budget // one)))
    count = max(1, min(len(layers), int(budget // (one * sequences))))
    return CacheShape(tuple(layers[:count]), window, sequences, tokens, backend.cache_dtype)


class _Recorded:
    """Attention over a full cache of one shape, as kernels."""

    def __init__(self, backend: Backend, model: LoadedModel, shape: CacheShape, max_rows: int) -> None:
        self.shape = shape
        self.name = f"attention, window {shape.window}" if shape.window else "attention"
        self._program = AttentionProgram(backend, model, shape, max_rows)
        self._layer = replace(attention_of(model.spec, backend), windows=(shape.window,))

    def kernel(self, kind: Shape, sequences: int, rows: int, context: int) -> Kernel:
        """``sequences`` of ``rows`` rows each behind ``context`` tokens."""
        work = self._layer.work(rows, context) * sequences
        run = runner(self._program.program, self._program.batch(sequences, rows, context))
        return Kernel(f"{self.name}, {kind}", kind, sequences * rows, context, work, len(self.shape.layers), run)


def _at_context(recorded: _Recorded, context: int, rows: Sequence[int], skipped: list[str]) -> list[Kernel]:
    """Decodes of as many sequences as rows, and verifications of as many rows of one sequence."""
    kernels = []
    for number in rows:
        if number <= recorded.shape.sequences:
            kernels.append(recorded.kernel("decode", number, 1, context))
        else:
            skipped.append(f"{recorded.name} of {number} sequences behind {context} tokens: too much memory")
        if number > 1:
            kernels.append(recorded.kernel("verify", 1, number, context))
    return kernels
