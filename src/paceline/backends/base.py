"""What a backend is: a small op set, a paged KV cache, and programs recorded once and run every step.

The decoder (``models/decoder.py``) is written once against ``Ops``. A backend may execute the calls at once (torch)
or record them and replay the record every step in one native call (cpu), the way a CUDA graph is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from paceline.backends.lora import LoraPart, Site
from paceline.quantization.packed import PackedWeight

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
Activation = Literal["silu", "gelu_tanh", "gelu"]
CacheDtype = Literal["f32", "f16", "bf16"]

#: Most rows of a sequence in a step in which it has a token tree (its ancestor mask is one machine word a row).
MAX_TREE_ROWS = 64

#: Opaque handles. ``Matrix``: a weight the backend has laid out for its kernels. ``Vector``: a float32 vector (norm
#: weight, bias). ``Rows``: float32 activations ``[rows of this step, width]`` inside a program.
Matrix = Any
Vector = Any
Rows = Any


@dataclass(slots=True)
class Batch:
    """One step as flat, ragged int32 arrays. T rows (tokens) of S sequences, no padding; rows of one sequence are
    consecutive. G cache groups (see ``CacheSpec``).

    A *row* is one token to compute. Row ``r`` of sequence ``s`` writes its keys and values to ``slots[g, r]`` and
    attends to every key of its sequence in slot order up to and including its own, except in a token tree: there
    ``parents`` restricts it to the context and its ancestors. A sequence with a tree has ``MAX_TREE_ROWS`` rows at
    most.
    """

    token_ids: IntArray  # [T]
    positions: IntArray  # [T] rope position; in a tree: context length + depth
    row_starts: IntArray  # [S + 1] rows of sequence s are row_starts[s]:row_starts[s + 1]
    context_lens: IntArray  # [S] keys of the sequence already in the cache before this step's rows
    slots: IntArray  # [G, T] block * block_size + offset in the group's own block numbering
    block_tables: IntArray  # [G, S, B] block ids in sequence order; -1 where released (sliding window) or unused
    logit_rows: IntArray  # [L] rows whose logits are wanted, ascending
    parents: IntArray | None = None  # [T] index among the sequence's own rows of the parent; -1: the context
    adapters: IntArray | None = None  # [S] slot of the sequence's adapter, -1: the base model; None: all are base
    inputs: FloatArray | None = None  # [T, widths of all ``Ops.input`` of the program, in their order]

    @property
    def num_rows(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """Shape of the paged KV cache. Layers with the same attention window form a *group* with its own block table, so
    sliding-window layers can give back blocks while global layers keep theirs."""

    num_kv_heads: int
    head_dim: int
    layer_group: tuple[int, ...]  # per layer: index of its group
    group_windows: tuple[int, ...]  # per group: attention window in tokens; 0: unlimited
    block_size: int = 16
    dtype: CacheDtype = "f16"

    @property
    def num_groups(self) -> int:
        return len(self.group_windows)

    def block_bytes(self, group: int) -> int:
        """Bytes of one block of ``group``: keys and values of all its layers."""
        layers = self.layer_group.count(group)
        item = 4 if self.dtype == "f32" else 2
        return 2 * layers * self.block_size * self.num_kv_heads * self.head_dim * item


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding of one layer kind: rotate-half (NeoX) pairing over the first ``2 * len(inv_freq)`` dims.

    cos and sin of ``position * inv_freq`` are multiplied by ``attention_factor`` (YaRN, LongRoPE).
    """

    inv_freq: tuple[float, ...]
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class AttentionLayer:
    """Everything that attention of one layer needs besides the activations."""

    layer: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int = 0  # keys with position > own - window are visible; 0: all
    softcap: float = 0.0  # scores become softcap * tanh(score / softcap); 0: off
    rope: RopeSpec | None = None  # None: no positional rotation (NoPE layers)
    q_norm: Vector | None = None  # RMS norm before rope; length head_dim: per head; length heads * head_dim: whole
    k_norm: Vector | None = None
    norm_eps: float = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class MoELayer:
    """Mixture of experts: softmax router, ``top_k`` experts a row, combined in the order of the experts' ids."""

    router: Matrix  # [experts, hidden]
    gate: Sequence[Matrix]  # per expert [intermediate, hidden]
    up: Sequence[Matrix]
    down: Sequence[Matrix]  # per expert [hidden, intermediate]
    top_k: int
    normalize: bool  # divide the chosen experts' weights by their sum
    activation: Activation = "silu"


class Ops(Protocol):
    """The op set. Every op works row by row: *a row's result is bit-identical whatever other rows are in the step*.

    Wherever ``linear`` and ``gated_linear`` multiply by a weight that has sites (see ``Backend.matrix``), a row whose
    sequence has an adapter gets the adapter's update of that weight as well, before bias, activation and everything
    else; the other rows of the step do not notice.
    """

    def embed(self, table: Matrix, scale: float = 1.0) -> Rows:
        """Rows of ``table`` for the step's token ids, times ``scale``."""

    def input(self, width: int) -> Rows:
        """Rows that the caller gives with the step: the next ``width`` columns of ``batch.inputs``."""

    def norm(self, x: Rows, weight: Vector, eps: float) -> Rows:
        """RMS norm: ``x / sqrt(mean(x^2) + eps) * weight``, in float32."""

    def linear(self, x: Rows, weight: Matrix, bias: Vector | None = None) -> Rows:
        """``x @ weight.T + bias``."""

    def gated_linear(self, x: Rows, gate: Matrix, up: Matrix, activation: Activation) -> Rows:
        """``activation(x @ gate.T) * (x @ up.T)``."""

    def add(self, x: Rows, y: Rows, scale: float = 1.0) -> Rows:
        """``x + scale * y`` (the residual stream is ``x``)."""

    def rope_and_store(self, qkv: Rows, layer: AttentionLayer) -> Rows:
        """Split ``[q | k | v]``, norm and rotate q and k, write k and v to the step's slots; gives q."""

    def attention(self, q: Rows, layer: AttentionLayer) -> Rows:
        """Causal (or ancestor-masked) attention of each row over its sequence's paged keys and values."""

    def moe(self, x: Rows, layer: MoELayer) -> Rows:
        """Routed gated experts."""

    def select(self, x: Rows) -> Rows:
        """Only the rows in ``batch.logit_rows``. Behind the first call every other op reads selected rows."""

    def logits(self, x: Rows, head: Matrix, scale: float = 1.0, softcap: float = 0.0) -> None:
        """The program's output: ``x @ head.T * scale``, then the soft cap. ``x`` has selected rows."""

    def capture(self, x: Rows) -> None:
        """Adds ``x``, all rows of it, to the program's output ``hidden``: the columns behind what was captured before.
        Comes before ``logits``."""


@dataclass(slots=True)
class StepOutput:
    """``logits`` is float32 ``[L, vocabulary]``, ``hidden`` float32 ``[T, sum of captured widths]`` (None when nothing
    is captured); both are valid until the program runs again. ``best`` is int32 ``[L]``: the id of each row's largest
    logit, the lowest on ties, -1 where a row has a logit that is not finite; None from backends that do not look."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None
    best: IntArray | None = None


class Program(Protocol):
    """A recorded model."""

    max_rows: int

    def run(self, batch: Batch) -> StepOutput:
        """Computes one step; at most ``max_rows`` rows. Releases the GIL while it computes."""


class Backend(Protocol):
    """Prepares weights, owns the KV memory, compiles programs."""

    name: str
    cache_dtype: CacheDtype  # of keys and values, with which its attention is fastest
    max_adapters: int  # slots 0 to max_adapters - 1; an empty one takes no memory

    def matrix(self, parts: Sequence[PackedWeight], sites: Sequence[Site] = ()) -> Matrix:
        """Lays out a weight; several parts are stacked along the output dimension (fused q, k, v). ``sites``: under
        which name adapters update each part; without them none can. The experts of a mixture have none."""

    def vector(self, values: torch.Tensor) -> Vector:
        """A float32 vector."""

    def allocate_cache(self, spec: CacheSpec, num_blocks: Sequence[int]) -> None:
        """Makes the KV memory: ``num_blocks[g]`` blocks for group ``g``, zero-filled lazily by the system."""

    def compile(self, build: Callable[[Ops], None], max_rows: int) -> Program:
        """Records ``build`` (which must end in ``ops.logits``)."""

    def move(self, sources: IntArray, targets: IntArray) -> None:
        """Copies keys and values of slot ``sources[g, i]`` to slot ``targets[g, i]`` (int32 ``[G, N]``) in all layers
        of group ``g``. A slot must not be the target of one move and the source of a later one: that holds where the
        accepted path of a token tree is moved together, front to back, however far sources and targets overlap."""

    def load_adapter(self, index: int, parts: Mapping[Site, LoraPart]) -> None:
        """Fills slot ``index`` in place of what it held, between steps: ``batch.adapters`` of every program may name
        it from now on. Raises ``AdapterError`` where a part does not fit the weight of its site; the slot is then as
        before."""

    def unload_adapter(self, index: int) -> None:
        """Empties slot ``index`` and frees its memory, between steps. A step must not name an empty slot."""

    def sibling(self) -> Backend:
        """A backend for a second model: it shares the threads or the device with this one and nothing else. Programs
        of siblings run one at a time."""
