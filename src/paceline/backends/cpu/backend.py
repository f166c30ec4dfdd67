"""The native CPU backend: packed weights, paged cache and recorded programs run by one small thread team."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from paceline import _cpu
from paceline.backends.base import Batch, CacheDtype, CacheSpec, IntArray, Ops, StepOutput
from paceline.backends.cpu.adapters import AdapterStore
from paceline.backends.cpu.lowering import Lowering
from paceline.backends.cpu.recorder import record
from paceline.backends.cpu.weights import CpuMatrix, WeightStore
from paceline.backends.lora import LoraPart, Site
from paceline.errors import PacelineError
from paceline.quantization.packed import PackedWeight


class CpuBackend:
    """``threads``: size of the thread team, the caller included (None: the CPUs this process may use).
    ``variant``: name of a kernel variant (None: the best this CPU can run). ``team``: run on this team instead of
    starting one; it runs one program at a time."""

    name = "cpu"
    max_adapters = 64

    def __init__(self, threads: int | None = None, variant: str | None = None, *, team: Any = None) -> None:
        variants = dict(_cpu.variants())
        if not variants:
            raise PacelineError("the cpu backend needs a CPU with AVX2, FMA and F16C; use the torch backend")
        self.variant = variant or next(iter(variants))
        known = variants | dict(_cpu.test_variants())
        if self.variant not in known:
            raise PacelineError(f"this CPU cannot run the kernels {self.variant!r}; it can run {', '.join(variants)}")
        assert team is None or threads is None
        self.threads: int = team.size if team is not None else threads or len(os.sched_getaffinity(0))
        self._bf16_activations = known[self.variant]
        self.cache_dtype: CacheDtype = "bf16" if self._bf16_activations else "f16"
        self._team = team or _cpu.Team(self.threads)
        self._weights = WeightStore()
        self._adapters = AdapterStore(self.max_adapters)
        self._cache: Any = None
        self._spec: CacheSpec | None = None

    def matrix(self, parts: Sequence[PackedWeight], sites: Sequence[Site] = ()) -> CpuMatrix:
        return self._weights.matrix(parts, self._adapters.register(parts, sites))

    def vector(self, values: torch.Tensor) -> Any:
        return self._weights.vector(values)

    def allocate_cache(self, spec: CacheSpec, num_blocks: Sequence[int]) -> None:
        if spec.block_size != 16:
            raise PacelineError(f"the cpu backend has cache blocks of 16 tokens, not {spec.block_size}")
        groups = [
            (spec.layer_group.count(group), spec.num_kv_heads, spec.head_dim, blocks)
            for group, blocks in enumerate(num_blocks)
        ]
        self._cache = _cpu.Cache(spec.dtype, groups)
        self._spec = spec

    def compile(self, build: Callable[[Ops], None], max_rows: int) -> CpuProgram:
        assert self._spec is not None, "allocate_cache comes before compile"
        nodes = record(build)
        native = _cpu.Program(self._team, self._cache, self._adapters.native, self.variant, max_rows)
        Lowering(native, self._spec, max_rows, self._bf16_activations).run(nodes)
        return CpuProgram(native, max_rows, nodes[-1].output.width, (self._weights, nodes))

    def move(self, sources: IntArray, targets: IntArray) -> None:
        for group, slots in enumerate(zip(sources, targets, strict=True)):
            self._cache.move(group, *slots)

    def load_adapter(self, index: int, parts: Mapping[Site, LoraPart]) -> None:
        self._adapters.load(index, parts)

    def unload_adapter(self, index: int) -> None:
        self._adapters.unload(index)

    def sibling(self) -> CpuBackend:
        return CpuBackend(variant=self.variant, team=self._team)


class CpuProgram:
    """A recorded model; one native call a step, with the GIL released."""

    def __init__(self, native: Any, max_rows: int, vocab_size: int, keep: Any) -> None:
        self.max_rows = max_rows
        self._native = native
        self._keep = keep  # the weights must outlive the program
        self._logits = torch.empty((1, vocab_size))
        self._logits_array = self._logits.numpy()
        self._best: IntArray = np.empty(max_rows, dtype=np.int32)
        self._hidden = torch.empty((1, native.hidden_width)) if native.hidden_width else None

    def run(self, batch: Batch) -> StepOutput:
        wanted, hidden = len(batch.logit_rows), self._hidden
        if wanted > len(self._logits):
            self._logits = self._grown(self._logits, wanted)
            self._logits_array = self._logits.numpy()
        if hidden is not None and batch.num_rows > len(hidden):
            hidden = self._hidden = self._grown(hidden, batch.num_rows)
        self._native.run(
            batch.token_ids,
            batch.positions,
            batch.row_starts,
            batch.context_lens,
            batch.slots,
            batch.block_tables,
            batch.logit_rows,
            batch.parents,
            batch.adapters,
            self._logits_array,
            self._best,
            None if hidden is None else hidden.numpy(),
            batch.inputs,
        )
        seen = None if hidden is None else hidden[: batch.num_rows]
        return StepOutput(self._logits[:wanted], seen, self._best[:wanted])

    def _grown(self, output: torch.Tensor, rows: int) -> torch.Tensor:
        """Memory for ``rows`` rows or more; what was in ``output`` is not kept."""
        return torch.empty((max(rows, min(2 * len(output), self.max_rows)), output.shape[1]))

    def profile(self, on: bool) -> None:
        """Starts or stops adding up seconds per kind of stage."""
        self._native.profile(on)

    def times(self) -> dict[str, float]:
        """Seconds per kind of stage since the last call."""
        return dict(self._native.times())
