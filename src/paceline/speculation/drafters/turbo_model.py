"""The speculator as a program: one decoder layer over the target's embedding and hidden states, and a short head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from paceline._suffix import MarkovTerm
from paceline.backends.base import AttentionLayer, Backend, FloatArray, IntArray, Matrix, Ops, Vector
from paceline.quantization.packed import PackedWeight
from paceline.quantization.rounding import GROUP, quantize
from paceline.speculation.drafters.turbo_format import SpeculatorConfig

#: How a speculator's matrices are kept: "f32" as they are, else rounded when they are loaded.
WeightKind = Literal["f32", "q8", "q4"]


@dataclass(slots=True)
class SpeculatorModel:
    """Weights as the backend laid them out, and what is computed outside of the program.

    ``embedding`` is the target's own matrix, not a copy. ``tokens`` int64 ``[vocab_size]``: the target's ids of draft
    tokens; ``indices`` int32: of each of the target's ids its place among them, -1 elsewhere.
    ``state_scale`` float32 ``[states]``, ``masks`` float32 ``[positions - 1, states]``.
    """

    config: SpeculatorConfig
    embedding: Matrix
    embedding_norm: Vector
    state_norm: Vector
    from_embedding: Matrix
    from_states: Matrix
    attention_norm: Vector
    attention: AttentionLayer
    qkv: Matrix
    output: Matrix
    mlp_norm: Vector
    gate: Matrix
    up: Matrix
    down: Matrix
    final_norm: Vector
    head: Matrix  # [vocab_size + 1, hidden]: draft tokens, then survival
    tokens: npt.NDArray[np.int64]
    indices: IntArray
    state_scale: FloatArray
    masks: FloatArray
    markov: MarkovTerm
    weights_bytes: int

    @property
    def nbytes(self) -> int:
        """Of everything but the embedding, which is the target's."""
        arrays = (self.tokens, self.indices, self.state_scale, self.masks)
        return self.weights_bytes + self.markov.bytes + sum(array.nbytes for array in arrays)

    def build(self, ops: Ops) -> None:
        """One pass, for ``Backend.compile``. Its input rows are scaled states ``[T, states]``. Known tokens are there
        for their keys and values only: behind these just the block's rows are computed."""
        config, eps = self.config, self.config.norm_eps
        token = ops.linear(ops.norm(ops.embed(self.embedding), self.embedding_norm, eps), self.from_embedding)
        state = ops.linear(ops.norm(ops.input(config.state_width), self.state_norm, eps), self.from_states)
        x = ops.add(token, state)
        q = ops.rope_and_store(ops.linear(ops.norm(x, self.attention_norm, eps), self.qkv), self.attention)
        attended = ops.attention(q, self.attention)
        x, attended = ops.select(x), ops.select(attended)
        x = ops.add(x, ops.linear(attended, self.output))
        mlp = ops.gated_linear(ops.norm(x, self.mlp_norm, eps), self.gate, self.up, config.activation)
        x = ops.add(x, ops.linear(mlp, self.down))
        ops.logits(ops.norm(x, self.final_norm, eps), self.head)


def lay_out(
    config: SpeculatorConfig,
    tensors: Mapping[str, torch.Tensor | PackedWeight],
    embedding: Matrix,
    backend: Backend,
    kind: WeightKind = "q8",
) -> SpeculatorModel:
    """Lays a speculator's tensors (see ``read_stored``) out for ``backend``; ``embedding``: the target's, laid out
    by a backend of the same family."""
    size = 0

    def matrix(*names: str) -> Matrix:
        nonlocal size
        parts = [_packed([tensors[name] for name in names], kind)]
        size += sum(part.nbytes for part in parts)
        return backend.matrix(parts)

    def part(name: str) -> FloatArray:
        return np.ascontiguousarray(dense(name).float().numpy())

    def array(name: str) -> FloatArray:  # a copy: a part of the file would keep all of it in memory
        return part(name).copy()

    def vector(name: str) -> Vector:
        return backend.vector(dense(name).float())

    def dense(name: str) -> torch.Tensor:
        return _dense(tensors[name])

    tokens = dense("tokens").numpy().copy()
    matrices = {name: matrix(name) for name in ("from_embedding", "from_states", "qkv", "output", "gate", "up", "down")}
    return SpeculatorModel(
        config=config,
        embedding=embedding,
        embedding_norm=vector("embedding_norm"),
        state_norm=vector("state_norm"),
        attention_norm=vector("attention_norm"),
        attention=config.attention(),
        mlp_norm=vector("mlp_norm"),
        final_norm=vector("final_norm"),
        head=matrix("head", "survival"),
        tokens=tokens,
        indices=_indices(tokens, config.target.vocab_size),
        state_scale=array("state_scale"),
        masks=array("masks"),
        markov=MarkovTerm(part("markov_previous"), part("markov_next")),  # copies them
        weights_bytes=size,
        **matrices,
    )


def _indices(tokens: npt.NDArray[np.int64], vocab_size: int) -> IntArray:
    indices = np.full(vocab_size, -1, dtype=np.int32)
    indices[tokens] = np.arange(len(tokens), dtype=np.int32)
    return indices


def _dense(tensor: torch.Tensor | PackedWeight) -> torch.Tensor:
    return tensor.dequantize() if isinstance(tensor, PackedWeight) else tensor


def _packed(parts: list[torch.Tensor | PackedWeight], kind: WeightKind) -> PackedWeight:
    """The rows of ``parts`` as one matrix. Those that are stored in this kind already are not rounded again."""
    packed = [part for part in parts if isinstance(part, PackedWeight) and part.kind == kind and part.scale is not None]
    if len(packed) == len(parts):
        codes, scales = [part.data for part in packed], [part.scale for part in packed if part.scale is not None]
        return PackedWeight(packed[0].kind, torch.cat(codes), torch.cat(scales), None, packed[0].group_size)
    weights = torch.cat([_dense(part) for part in parts])
    if kind == "f32" or weights.shape[1] % GROUP:
        return PackedWeight("f32", weights.float().contiguous())
    return quantize(weights, kind)
