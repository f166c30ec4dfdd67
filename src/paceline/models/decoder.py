"""The one decoder, written against the op set: every supported architecture is a path through these few lines."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from paceline.backends.base import AttentionLayer, Matrix, MoELayer, Ops, Rows, Vector
from paceline.models.spec import ModelSpec


@dataclass(slots=True)
class LayerWeights:
    """One layer's weights as the backend laid them out. A slot that the architecture does not have is None."""

    attention: AttentionLayer
    qkv: Matrix  # [q | k | v, hidden]
    output: Matrix  # [hidden, q]
    qkv_bias: Vector | None = None
    output_bias: Vector | None = None
    attention_norm: Vector | None = None
    attention_post_norm: Vector | None = None
    mlp_norm: Vector | None = None
    mlp_post_norm: Vector | None = None
    gate: Matrix | None = None  # [intermediate, hidden]
    up: Matrix | None = None
    down: Matrix | None = None  # [hidden, intermediate]
    moe: MoELayer | None = None


@dataclass(slots=True)
class ModelWeights:
    """All weights of a model."""

    embedding: Matrix  # [vocabulary, hidden]
    layers: list[LayerWeights]
    final_norm: Vector
    head: Matrix  # the same object as ``embedding`` when tied


def build(ops: Ops, spec: ModelSpec, weights: ModelWeights, capture: Collection[int] = ()) -> None:
    """Records (or runs) one step of the model: token ids in, logits of the wanted rows out.

    The residual stream behind each layer in ``capture`` comes out as well, for all rows, ascending layers side by side.

    Behind the last layer's keys and values, a row matters to its own logits only: what follows computes the selected
    rows, a prompt's last one.
    """
    x = ops.embed(weights.embedding, spec.embedding_scale)
    last = len(weights.layers) - 1
    for index, layer in enumerate(weights.layers):
        attended = _attention(ops, spec, layer, x)
        if index == last and index not in capture:
            x, attended = ops.select(x), ops.select(attended)
        x = ops.add(x, _attention_output(ops, spec, layer, attended), spec.residual_scale)
        x = ops.add(x, _mlp(ops, spec, layer, x), spec.residual_scale)
        if index in capture:
            ops.capture(x)
    x = ops.select(x) if last in capture else x
    ops.logits(ops.norm(x, weights.final_norm, spec.norm_eps), weights.head, spec.logit_scale, spec.logit_softcap)


def _attention(ops: Ops, spec: ModelSpec, layer: LayerWeights, x: Rows) -> Rows:
    x = _norm(ops, spec, x, layer.attention_norm)
    q = ops.rope_and_store(ops.linear(x, layer.qkv, layer.qkv_bias), layer.attention)
    return ops.attention(q, layer.attention)


def _attention_output(ops: Ops, spec: ModelSpec, layer: LayerWeights, attended: Rows) -> Rows:
    x = ops.linear(attended, layer.output, layer.output_bias)
    return _norm(ops, spec, x, layer.attention_post_norm)


def _mlp(ops: Ops, spec: ModelSpec, layer: LayerWeights, x: Rows) -> Rows:
    x = _norm(ops, spec, x, layer.mlp_norm)
    if layer.moe is not None:
        x = ops.moe(x, layer.moe)
    else:
        x = ops.linear(ops.gated_linear(x, layer.gate, layer.up, spec.activation), layer.down)
    return _norm(ops, spec, x, layer.mlp_post_norm)


def _norm(ops: Ops, spec: ModelSpec, x: Rows, weight: Vector | None) -> Rows:
    return x if weight is None else ops.norm(x, weight, spec.norm_eps)
