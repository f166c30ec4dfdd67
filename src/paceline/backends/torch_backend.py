"""The reference backend: every op in a few obvious lines of torch, run at once. Oracle for tests, and the fallback.

The op set promises that a row's result is bit-identical whatever other rows are in the step. Torch does not give
that for free: matrix products pick another kernel for another number of rows, and vectorised functions treat the last
few elements of an array differently. With ``row_invariant=True`` (the default) every op therefore runs row by row on
an aligned copy of the row, and attention sees exactly the keys visible to that row, so the same arithmetic is done
however the rows were batched. Not guaranteed: equality between different numbers of torch threads, devices or torch
builds. With ``row_invariant=False`` whole arrays are computed at once, which is much faster for many rows and differs
in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from paceline.backends.base import (
    Activation,
    AttentionLayer,
    Batch,
    CacheDtype,
    CacheSpec,
    IntArray,
    MoELayer,
    Ops,
    RopeSpec,
    StepOutput,
)
from paceline.backends.lora import LoraPart, Site, check_parts
from paceline.quantization.packed import PackedWeight

_CACHE_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True, slots=True, eq=False)
class TorchMatrix:
    """``weight`` is ``[sum of rows, columns]``; ``sites`` names ranges of its rows for adapters."""

    weight: torch.Tensor
    sites: tuple[tuple[Site, slice], ...]


class TorchBackend:
    """Weights are dequantized once, at load, to ``dtype`` on ``device``; the KV cache is one tensor for each layer's
    keys and one for its values, ``[blocks * block_size, kv_heads, head_dim]``."""

    name = "torch"
    cache_dtype: CacheDtype = "f16"
    max_adapters = 64

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        dtype: torch.dtype = torch.float32,
        row_invariant: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.row_invariant = row_invariant
        self.cache_spec: CacheSpec | None = None
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.adapters: dict[int, dict[Site, LoraPart]] = {}  # by slot
        self._shapes: dict[Site, tuple[int, int]] = {}

    def matrix(self, parts: Sequence[PackedWeight], sites: Sequence[Site] = ()) -> TorchMatrix:
        """See ``TorchMatrix``."""
        weight = torch.cat([part.dequantize().to(self.device, self.dtype) for part in parts])
        named, first = [], 0
        for site, part in zip(sites, parts, strict=bool(sites)):
            self._shapes[site] = part.shape
            named.append((site, slice(first, first + part.shape[0])))
            first += part.shape[0]
        return TorchMatrix(weight, tuple(named))

    def vector(self, values: torch.Tensor) -> torch.Tensor:
        """A float32 copy on the device."""
        return values.to(self.device, torch.float32, copy=True)

    def allocate_cache(self, spec: CacheSpec, num_blocks: Sequence[int]) -> None:
        """Zeros, which the system hands out page by page when they are first written."""
        self.cache_spec = spec
        shapes = [(num_blocks[group] * spec.block_size, spec.num_kv_heads, spec.head_dim) for group in spec.layer_group]
        dtype = _CACHE_DTYPES[spec.dtype]
        self.keys = [torch.zeros(shape, dtype=dtype, device=self.device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=self.device) for shape in shapes]

    def compile(self, build: Callable[[Ops], None], max_rows: int) -> TorchProgram:
        """Nothing to record: the program calls ``build`` every step."""
        return TorchProgram(self, build, max_rows)

    def move(self, sources: IntArray, targets: IntArray) -> None:
        """At once: no later source is an earlier target, so the order does not matter."""
        assert self.cache_spec is not None, "allocate_cache comes first"
        slots = [torch.as_tensor(array, device=self.device).long() for array in (sources, targets)]
        for layer, group in enumerate(self.cache_spec.layer_group):
            for cache in (self.keys[layer], self.values[layer]):
                cache[slots[1][group]] = cache[slots[0][group]]

    def load_adapter(self, index: int, parts: Mapping[Site, LoraPart]) -> None:
        assert 0 <= index < self.max_adapters, f"there is no adapter slot {index}"
        check_parts(parts, self._shapes)
        self.adapters[index] = {
            site: LoraPart(part.a.to(self.device), part.b.to(self.device), part.scale) for site, part in parts.items()
        }

    def unload_adapter(self, index: int) -> None:
        self.adapters.pop(index, None)

    def sibling(self) -> TorchBackend:
        return TorchBackend(self.device, dtype=self.dtype, row_invariant=self.row_invariant)


class TorchProgram:
    """Runs the model eagerly."""

    def __init__(self, backend: TorchBackend, build: Callable[[Ops], None], max_rows: int) -> None:
        self.max_rows = max_rows
        self._backend = backend
        self._build = build

    @torch.no_grad()  # not inference_mode: its tensors cannot be changed in place outside of it
    def run(self, batch: Batch) -> StepOutput:
        """Computes one step."""
        assert batch.num_rows <= self.max_rows, f"{batch.num_rows} rows, compiled for {self.max_rows}"
        ops = TorchOps(self._backend, batch)
        self._build(ops)
        assert ops.output is not None, "the build function did not end in ops.logits"
        return StepOutput(ops.output, torch.cat(ops.hidden, dim=1) if ops.hidden else None)


class TorchOps:
    """The op set for one step; ``Rows`` are tensors ``[rows, width]``."""

    def __init__(self, backend: TorchBackend, batch: Batch) -> None:
        assert backend.cache_spec is not None, "allocate_cache comes first"
        self._backend = backend
        self._cache = backend.cache_spec
        self._batch = batch
        self._positions = self._to_device(batch.positions)
        self._slots = self._to_device(batch.slots)
        self._rotations: dict[RopeSpec, tuple[torch.Tensor, torch.Tensor]] = {}  # cos and sin [rows, half]
        self._reads: dict[tuple[int, int], list[_Read]] = {}  # per group and window, made when first needed
        self._row_slots = self._adapter_slots()
        self._updates = list(self._adapter_rows(self._row_slots))
        self._inputs_read = 0  # columns of the batch's inputs
        self.output: torch.Tensor | None = None
        self.hidden: list[torch.Tensor] = []

    def embed(self, table: TorchMatrix, scale: float = 1.0) -> torch.Tensor:
        return table.weight[self._to_device(self._batch.token_ids)] * scale

    def input(self, width: int) -> torch.Tensor:
        first, self._inputs_read = self._inputs_read, self._inputs_read + width
        inputs = self._batch.inputs
        assert inputs is not None and inputs.shape[1] >= first + width, f"the program reads {first + width} columns"
        columns = torch.as_tensor(inputs[:, first : first + width], device=self._backend.device)
        return columns.to(self._backend.dtype, copy=True)

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return self._rowwise(lambda x: _rms_norm(x, weight, eps), x)

    def linear(self, x: torch.Tensor, weight: TorchMatrix, bias: torch.Tensor | None = None) -> torch.Tensor:
        out = self._rowwise(lambda x: F.linear(x, weight.weight, None if bias is None else bias.to(x.dtype)), x)
        for rows, adapter in self._updates:
            for site, columns in weight.sites:
                if site in adapter:
                    part, own = adapter[site], x[rows].clone().float()
                    out[rows, columns] += (part.scale * (own @ part.a.T) @ part.b.T).to(out.dtype)
        return out

    def gated_linear(self, x: torch.Tensor, gate: TorchMatrix, up: TorchMatrix, activation: Activation) -> torch.Tensor:
        return self._rowwise(_ACTIVATIONS[activation], self.linear(x, gate)) * self.linear(x, up)

    def add(self, x: torch.Tensor, y: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return x + scale * y

    def rope_and_store(self, qkv: torch.Tensor, layer: AttentionLayer) -> torch.Tensor:
        kv_size = layer.num_kv_heads * layer.head_dim
        q, k, v = qkv.split([layer.num_heads * layer.head_dim, kv_size, kv_size], dim=1)
        q = self._norm_and_rotate(q, layer.q_norm, layer)
        k = self._norm_and_rotate(k, layer.k_norm, layer)
        slots = self._slots[self._cache.layer_group[layer.layer]]
        for store, rows in ((self._backend.keys, k), (self._backend.values, v)):
            cache = store[layer.layer]
            cache[slots] = rows.reshape(-1, layer.num_kv_heads, layer.head_dim).to(cache.dtype)
        return q

    def attention(self, q: torch.Tensor, layer: AttentionLayer) -> torch.Tensor:
        keys, values = self._backend.keys[layer.layer], self._backend.values[layer.layer]
        out = torch.empty_like(q)
        for read in self._reads_of(self._cache.layer_group[layer.layer], layer.window):
            rows = q[read.rows].clone().view(-1, layer.num_heads, layer.head_dim)
            attended = _attend(rows, keys[read.slots].to(q.dtype), values[read.slots].to(q.dtype), read.visible, layer)
            out[read.rows] = attended.flatten(1)
        return out

    def moe(self, x: torch.Tensor, layer: MoELayer) -> torch.Tensor:
        return self._rowwise(lambda x: _moe(x, layer), x)

    def select(self, x: torch.Tensor) -> torch.Tensor:
        rows = self._batch.logit_rows
        if self._row_slots is not None:
            self._updates = list(self._adapter_rows(self._row_slots[rows]))
        return x[self._to_device(rows)]

    def logits(self, x: torch.Tensor, head: TorchMatrix, scale: float = 1.0, softcap: float = 0.0) -> None:
        def rows(x: torch.Tensor) -> torch.Tensor:
            out = F.linear(x, head.weight).float() * scale
            return softcap * torch.tanh(out / softcap) if softcap else out

        self.output = self._rowwise(rows, x) if len(x) else x.new_empty(0, len(head.weight), dtype=torch.float32)

    def capture(self, x: torch.Tensor) -> None:
        self.hidden.append(x.float())

    def _to_device(self, array: object) -> torch.Tensor:
        return torch.as_tensor(array, device=self._backend.device).long()

    def _adapter_slots(self) -> IntArray | None:
        """The adapter slot of each row, -1 where it has none; None when no row has one."""
        adapters = self._batch.adapters
        return None if adapters is None else np.repeat(adapters, np.diff(self._batch.row_starts))

    def _adapter_rows(self, slots: IntArray | None) -> Iterator[tuple[slice, dict[Site, LoraPart]]]:
        """Rows that are updated together and the adapter that does it: neighbours of one adapter, or one after the
        other."""
        if slots is None:
            return
        cuts = np.flatnonzero(np.diff(slots)) + 1 if not self._backend.row_invariant else np.arange(1, len(slots))
        for first, last in pairwise([0, *cuts.tolist(), len(slots)]):
            if first < last and (index := int(slots[first])) >= 0:
                assert index in self._backend.adapters, f"a sequence names adapter slot {index}, which is empty"
                yield slice(first, last), self._backend.adapters[index]

    def _rowwise(self, function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """``function`` of all rows, or of one row after the other; the copy aligns the row like every other one."""
        if not self._backend.row_invariant or not len(x):
            return function(x)
        return torch.cat([function(row.clone().unsqueeze(0)) for row in x])

    def _norm_and_rotate(self, x: torch.Tensor, weight: torch.Tensor | None, layer: AttentionLayer) -> torch.Tensor:
        if weight is not None:
            width = weight.numel()  # head_dim, or all heads together
            heads = x.reshape(-1, width)
            x = self._rowwise(lambda x: _rms_norm(x, weight, layer.norm_eps), heads).view(x.shape)
        if layer.rope is None:
            return x
        cos, sin = self._rotation(layer.rope)
        return _rotate(x.view(len(x), -1, layer.head_dim), cos.to(x.dtype), sin.to(x.dtype)).flatten(1)

    def _rotation(self, rope: RopeSpec) -> tuple[torch.Tensor, torch.Tensor]:
        if rope not in self._rotations:
            inv_freq = torch.tensor(rope.inv_freq, dtype=torch.float32, device=self._backend.device)
            angles = self._positions.float().unsqueeze(1) * inv_freq
            cos, sin = self._rowwise(torch.cos, angles), self._rowwise(torch.sin, angles)
            self._rotations[rope] = cos * rope.attention_factor, sin * rope.attention_factor
        return self._rotations[rope]

    def _reads_of(self, group: int, window: int) -> list[_Read]:
        if (group, window) not in self._reads:
            self._reads[group, window] = [
                read
                for sequence in range(len(self._batch.context_lens))
                for read in self._sequence_reads(sequence, group, window)
            ]
        return self._reads[group, window]

    def _sequence_reads(self, sequence: int, group: int, window: int) -> list[_Read]:
        """What the rows of one sequence read: together, or one read for each row."""
        first, last = (int(row) for row in self._batch.row_starts[sequence : sequence + 2])
        visible = self._visible(sequence, first, last, window)
        blocks = self._to_device(self._batch.block_tables[group, sequence])
        block_size = self._cache.block_size
        step = 1 if self._backend.row_invariant else max(last - first, 1)
        reads = []
        for start in range(first, last, step):
            mask = visible[start - first : start - first + step]
            index = mask.any(dim=0).nonzero().squeeze(1)
            block = blocks[index // block_size]
            assert bool((block >= 0).all()), f"sequence {sequence} of group {group} reads a released block"
            slots = block * block_size + index % block_size
            reads.append(_Read(slice(start, start + step), slots, mask[:, index]))
        return reads

    def _visible(self, sequence: int, first: int, last: int, window: int) -> torch.Tensor:
        """Which keys of the sequence (cached ones, then this step's rows) each of its rows sees: bool [rows, keys]."""
        context = int(self._batch.context_lens[sequence])
        count = last - first
        own = torch.ones(count, count, dtype=torch.bool).tril()
        if self._batch.parents is not None:
            own = _ancestors(self._batch.parents[first:last].tolist())
        visible = torch.cat([torch.ones(count, context, dtype=torch.bool), own], dim=1).to(self._backend.device)
        if window:
            positions = self._positions[first:last]
            key_positions = torch.cat([torch.arange(context, device=positions.device), positions])
            visible &= key_positions > positions.unsqueeze(1) - window
        return visible


class _Read:
    """Rows that attend together, the cache slots they read, and who sees which: bool [rows, slots]."""

    __slots__ = ("rows", "slots", "visible")

    def __init__(self, rows: slice, slots: torch.Tensor, visible: torch.Tensor) -> None:
        self.rows = rows
        self.slots = slots
        self.visible = visible


def _attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: torch.Tensor, layer: AttentionLayer
) -> torch.Tensor:
    """``q`` [rows, heads, head_dim] over ``keys``, ``values`` [n, kv_heads, head_dim], ``visible`` [rows, n]."""
    share = layer.num_heads // layer.num_kv_heads
    keys, values = keys.repeat_interleave(share, dim=1), values.repeat_interleave(share, dim=1)
    scores = torch.einsum("rhd,nhd->hrn", q, keys).float() * layer.scale
    if layer.softcap:
        scores = layer.softcap * torch.tanh(scores / layer.softcap)
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1).to(q.dtype)
    return torch.einsum("hrn,nhd->rhd", weights, values)


def _ancestors(parents: list[int]) -> torch.Tensor:
    """Each row's own bit and its ancestors': bool [rows, rows]. A parent comes before its children."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for row, parent in enumerate(parents):
        if parent >= 0:
            mask[row] |= mask[parent]
    return mask


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps) * weight).to(x.dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates pairs (i, i + half) of the first ``2 * half`` dims of ``x`` [rows, heads, head_dim]."""
    half = cos.shape[1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    left, right, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([left * cos - right * sin, right * cos + left * sin, rest], dim=-1)


def _moe(x: torch.Tensor, layer: MoELayer) -> torch.Tensor:
    probabilities = F.linear(x, layer.router.weight).float().softmax(dim=-1)
    chosen = probabilities.sort(dim=-1, descending=True, stable=True)  # ties go to the lower id
    weights, experts = chosen.values[:, : layer.top_k], chosen.indices[:, : layer.top_k]
    if layer.normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    out = torch.zeros_like(x)
    for expert in range(len(layer.gate)):
        row, rank = (experts == expert).nonzero(as_tuple=True)
        if len(row):
            gate, up = (F.linear(x[row], matrix[expert].weight) for matrix in (layer.gate, layer.up))
            hidden = F.linear(_ACTIVATIONS[layer.activation](gate) * up, layer.down[expert].weight)
            out[row] += hidden * weights[row, rank].unsqueeze(1).to(x.dtype)
    return out
