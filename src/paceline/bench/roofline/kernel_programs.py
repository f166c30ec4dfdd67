"""Programs of one operation: the model's own matrices, or its attention over a cache of its shape, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from paceline.backends.base import Backend, Batch, CacheDtype, CacheSpec, IntArray, Matrix, Ops, Program, Rows
from paceline.bench.roofline.inventory import Use
from paceline.bench.roofline.model_work import HEAD
from paceline.bench.roofline.multiply import added, rows_of_one_sequence
from paceline.models.loading import LoadedModel
from paceline.quantization.packed import PackedWeight
from paceline.quantization.rounding import GROUP, quantize

BLOCK = 16
END_OUTPUTS = 16  # of the head that a program must end in; it gets no rows


def end_matrix(backend: Backend, width: int, kind: str = "f32") -> Matrix:
    """The smallest matrix that reads rows of ``width``, in the form that matrices of ``kind`` read."""
    zeros = torch.zeros(END_OUTPUTS, width)
    if kind.startswith("q") and width % GROUP == 0:
        return backend.matrix([quantize(zeros, "q8")])
    return backend.matrix([PackedWeight("bf16", zeros.bfloat16()) if kind == "bf16" else PackedWeight("f32", zeros)])


def record_products(backend: Backend, model: LoadedModel, use: Use, max_rows: int) -> Program:
    """A program of all layers' products of one kind, one behind the other, on the same given rows."""
    width, activation = use.weight.inputs, model.spec.activation

    def values(ops: Ops, x: Rows) -> Iterator[Rows]:
        """What is measured, and as little as can be that reads it: sums, or for gated products, whose results would be
        rounded for the next product, a product of a few outputs."""
        for matrices in use.matrices:
            if len(matrices) == 2:
                yield ops.linear(ops.gated_linear(x, *matrices, activation), reader)
            else:
                yield ops.linear(x, matrices[0])
        for layer in use.layers:
            yield ops.moe(x, layer)

    def build(ops: Ops) -> None:
        x = ops.input(width)
        if use.weight.part == HEAD:
            ops.logits(ops.select(x), use.matrices[0][0])
        else:
            ops.logits(ops.select(added(ops, values(ops, x))), end)

    outputs = use.weight.outputs
    gated = bool(use.matrices) and len(use.matrices[0]) == 2
    reader = end_matrix(backend, outputs // 2, use.kind) if gated else None
    end = end_matrix(backend, END_OUTPUTS if gated else width if use.layers else outputs)
    return backend.compile(build, max_rows)


def product_batch(use: Use, rows: int) -> Batch:
    """A step of ``rows`` rows for a program of ``record_products``."""
    inputs = np.random.default_rng(rows).standard_normal((rows, use.weight.inputs), dtype=np.float32)
    return rows_of_one_sequence(rows, inputs, logits=use.weight.part == HEAD)


@dataclass(frozen=True, slots=True)
class CacheShape:
    """``layers`` of one window, in a cache that holds ``sequences`` of ``tokens`` tokens."""

    layers: tuple[int, ...]  # their numbers in the model
    window: int
    sequences: int
    tokens: int
    dtype: CacheDtype

    @property
    def blocks(self) -> int:
        """Of one sequence."""
        return -(-self.tokens // BLOCK)


class AttentionProgram:
    """Attention of some of the model's layers over a full cache, on a backend of its own beside ``backend``."""

    def __init__(self, backend: Backend, model: LoadedModel, shape: CacheShape, max_rows: int) -> None:
        self.shape = shape
        self._backend = backend.sibling()
        spec = model.spec
        self._width = spec.q_size + 2 * spec.kv_size
        count = len(shape.layers)
        cache = CacheSpec(spec.num_kv_heads, spec.head_dim, (0,) * count, (shape.window,), BLOCK, shape.dtype)
        self._backend.allocate_cache(cache, [shape.blocks * shape.sequences])
        layers = [replace(model.weights.layers[number].attention, layer=i) for i, number in enumerate(shape.layers)]
        end = end_matrix(self._backend, spec.q_size)

        def build(ops: Ops) -> None:
            x = ops.input(self._width)
            read = added(ops, (ops.attention(ops.rope_and_store(x, layer), layer) for layer in layers))
            ops.logits(ops.select(read), end)

        self.program = self._backend.compile(build, max_rows)
        self._fill()

    def _fill(self) -> None:
        """Writes every slot: memory that was never written is not read from memory. A few are computed, the others
        copied from them."""
        slots = self.shape.blocks * self.shape.sequences * BLOCK
        done = min(slots, BLOCK, self.program.max_rows)
        self.program.run(rows_of_one_sequence(done, self._inputs(done)))
        while done < slots:
            count = min(done, slots - done)
            sources = np.arange(count, dtype=np.int32).reshape(1, -1)
            self._backend.move(sources, sources + np.int32(done))
            done += count

    def _inputs(self, rows: int) -> np.ndarray:
        return np.random.default_rng(rows).standard_normal((rows, self._width), dtype=np.float32)

    def batch(self, sequences: int, rows: int, context: int) -> Batch:
        """A step in which ``sequences`` have ``rows`` rows each behind ``context`` tokens."""
        assert sequences <= self.shape.sequences and context + rows <= self.shape.tokens
        total = sequences * rows
        tables = np.arange(sequences * self.shape.blocks, dtype=np.int32).reshape(sequences, -1)
        places: IntArray = np.tile(np.arange(context, context + rows, dtype=np.int32), sequences)
        slots = np.repeat(tables[:, 0] * BLOCK, rows) + places
        return Batch(
            token_ids=np.zeros(total, dtype=np.int32),
            positions=places,
            row_starts=np.arange(0, total + 1, rows, dtype=np.int32),
            context_lens=np.full(sequences, context, dtype=np.int32),
            slots=slots.astype(np.int32).reshape(1, -1),
            block_tables=tables.reshape(1, sequences, -1),
            logit_rows=np.zeros(0, dtype=np.int32),
            inputs=self._inputs(total),
        )


def empty_step(backend: Backend, width: int) -> Callable[[], object]:
    """A step of one row in which nothing is multiplied: what a call costs by itself."""
    end = end_matrix(backend, width)
    program = backend.compile(lambda ops: ops.logits(ops.select(ops.input(width)), end), 1)
    return runner(program, rows_of_one_sequence(1, np.zeros((1, width), dtype=np.float32)))


def runner(program: Program, batch: Batch) -> Callable[[], object]:
    """A call that computes one step."""
    return lambda: program.run(batch)


def layers_by_window(windows: Sequence[int]) -> dict[int, list[int]]:
    """Numbers of the layers of each window, unlimited ones (0) first."""
    return {window: [i for i, own in enumerate(windows) if own == window] for window in sorted(set(windows))}
