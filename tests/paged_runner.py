"""Runs a loaded model on ragged batches over a paged cache whose blocks are handed out in shuffled order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch

from paceline.backends.base import Backend, Batch, CacheDtype
from paceline.models.loading import LoadedModel

Chunk = tuple[int, Sequence[int]]  # sequence id, its next tokens


class PagedRunner:
    """The least scheduler there can be. Gives back blocks that fell out of a window, so that a read of one shows."""

    def __init__(
        self,
        model: LoadedModel,
        backend: Backend,
        *,
        dtype: CacheDtype = "f32",
        num_blocks: int = 24,
        max_rows: int = 256,
        seed: int = 0,
        capture: Sequence[int] = (),
    ) -> None:
        """``capture``: layers whose hidden states each step leaves in ``hidden`` [rows, layers * width]."""
        self.cache = model.spec.cache_spec(dtype)
        backend.allocate_cache(self.cache, [num_blocks] * self.cache.num_groups)
        self.program = backend.compile(model.build_with(capture) if capture else model.build, max_rows)
        self.hidden: torch.Tensor | None = None
        self.adapters: dict[int, int] = {}  # slot of a sequence's adapter; without an entry: the base model
        self.lengths: dict[int, int] = {}  # computed tokens of each sequence
        self.tables: dict[int, list[list[int]]] = {}  # per sequence and group
        self.free = [list(range(num_blocks)) for _ in range(self.cache.num_groups)]
        for blocks in self.free:
            random.Random(seed).shuffle(blocks)

    def step(
        self,
        chunks: Sequence[Chunk],
        parents: Sequence[Sequence[int]] | None = None,
        wanted: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Computes the chunks in one batch: logits [rows, vocabulary] of all rows, or of the ``wanted`` ones.

        ``parents`` makes token trees, one list for each chunk; their rows stay out of the sequence's length.
        """
        batch = self._batch(chunks, parents)
        if wanted is not None:
            batch.logit_rows = np.array(wanted, dtype=np.int32)
        output = self.program.run(batch)
        logits = output.logits.clone()
        self.hidden = None if output.hidden is None else output.hidden.clone()
        if parents is None:
            for sequence, tokens in chunks:
                self.lengths[sequence] += len(tokens)
                self._release(sequence)
        return logits

    def run(self, sequence: int, tokens: Sequence[int], chunk: int) -> torch.Tensor:
        """All of one sequence's tokens, ``chunk`` rows a step."""
        parts = [self.step([(sequence, tokens[i : i + chunk])]) for i in range(0, len(tokens), chunk)]
        return torch.cat(parts)

    def _batch(self, chunks: Sequence[Chunk], parents: Sequence[Sequence[int]] | None) -> Batch:
        counts = [len(tokens) for _, tokens in chunks]
        for (sequence, _), count in zip(chunks, counts, strict=True):
            self._reserve(sequence, count)
        contexts = [self.lengths[sequence] for sequence, _ in chunks]
        positions = []
        for i, (context, count) in enumerate(zip(contexts, counts, strict=True)):
            depths = list(range(count)) if parents is None else _depths(parents[i])
            positions += [context + depth for depth in depths]
        tables = [self.tables[sequence] for sequence, _ in chunks]
        width = max(len(table) for groups in tables for table in groups)
        padded = [[groups[g] + [-1] * (width - len(groups[g])) for groups in tables] for g in range(len(self.free))]
        size = self.cache.block_size
        slots = [
            [
                groups[g][place // size] * size + place % size
                for groups, context, count in zip(tables, contexts, counts, strict=True)
                for place in range(context, context + count)
            ]
            for g in range(len(self.free))
        ]
        return Batch(
            token_ids=_int32([token for _, tokens in chunks for token in tokens]),
            positions=_int32(positions),
            row_starts=_int32(np.cumsum([0, *counts])),
            context_lens=_int32(contexts),
            slots=_int32(slots),
            block_tables=_int32(padded),
            logit_rows=_int32(range(sum(counts))),
            adapters=_int32([self.adapters.get(sequence, -1) for sequence, _ in chunks]) if self.adapters else None,
            parents=None if parents is None else _int32([parent for chunk in parents for parent in chunk]),
        )

    def _reserve(self, sequence: int, count: int) -> None:
        self.lengths.setdefault(sequence, 0)
        groups = self.tables.setdefault(sequence, [[] for _ in self.free])
        for table, free in zip(groups, self.free, strict=True):
            while len(table) * self.cache.block_size < self.lengths[sequence] + count:
                table.append(free.pop())

    def _release(self, sequence: int) -> None:
        for group, window in enumerate(self.cache.group_windows):
            table = self.tables[sequence][group]
            oldest = self.lengths[sequence] - window + 1 if window else 0  # the next row's oldest visible key
            for index in range(max(oldest, 0) // self.cache.block_size):
                if table[index] >= 0:
                    self.free[group].append(table[index])
                    table[index] = -1


def _depths(parents: Sequence[int]) -> list[int]:
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths


def _int32(values: object) -> np.ndarray:
    if isinstance(values, range):
        values = list(values)
    return np.ascontiguousarray(values, dtype=np.int32)
