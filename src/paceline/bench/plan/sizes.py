"""How many parameters a model has, and how many bytes they take in a format of weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from paceline.bench.roofline.model_work import HEAD, Attention, ModelWork, Weight
from paceline.models.spec import ModelSpec

FLOAT32_BITS = 32  # of norms, biases and routers, whatever the format


@dataclass(frozen=True, slots=True)
class Format:
    """How weights are stored and multiplied. ``bits``: of a weight of the layers, with its share of scales and minima,
    and the ``arithmetic`` of its products. ``table_bits``, ``table_arithmetic``: of the embedding and the head, which
    most formats leave as they are. ``remark``: what a user should know of it."""

    name: str
    bits: float
    arithmetic: str
    table_bits: float
    table_arithmetic: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counts of numbers. ``active``: those that one token is multiplied by or looked up in (a row of the embedding
    counts as nothing)."""

    total: int
    active: int
    layers: int  # matrices of the layers
    table: int  # embedding, and the head where it is its own
    vectors: int  # norms and biases


def shapes(spec: ModelSpec) -> list[Weight]:
    """The products of a step, without bytes or arithmetic; the head last."""
    hidden, layers, last = spec.hidden_size, spec.num_layers, spec.layers[-1].moe
    found = [
        Weight("q, k, v", spec.q_size + 2 * spec.kv_size, hidden, 0, "", layers),
        Weight("attention output", hidden, spec.q_size, 0, "", layers, selected=1),
    ]
    for moe, count in Counter(layer.moe for layer in spec.layers).items():
        own = int(moe == last)  # the last layer's sees only rows with logits
        if moe is None:
            found.append(Weight("gate and up", 2 * spec.intermediate_size, hidden, 0, "", count, selected=own))
            found.append(Weight("down", hidden, spec.intermediate_size, 0, "", count, selected=own))
        else:
            size = 3 * moe.intermediate_size
            found.append(Weight("router", moe.num_experts, hidden, 0, "", count, selected=own))
            found.append(Weight("experts", size, hidden, 0, "", count, moe.num_experts, moe.top_k, own))
    return [*found, Weight(HEAD, spec.vocab_size, hidden, 0, "", selected=1)]


def parameters(spec: ModelSpec) -> Parameters:
    """Counts of a model's parameters; exact for the architectures that are served."""
    products = shapes(spec)
    head = products[-1].parameters
    layers = sum(weight.parameters for weight in products[:-1])
    table = head if spec.tied_head else 2 * head
    vectors = _vectors(spec)
    active = sum(weight.active_parameters for weight in products) + vectors
    return Parameters(layers + table + vectors, active, layers, table, vectors)


def _vectors(spec: ModelSpec) -> int:
    hidden = spec.hidden_size
    norms = 2 * (spec.pre_norm + spec.post_norm) * hidden
    heads = {"none": 0, "per_head": 2 * spec.head_dim, "full": spec.q_size + spec.kv_size}[spec.qk_norm]
    biases = (spec.q_size + 2 * spec.kv_size) * spec.qkv_bias + hidden * spec.output_bias
    return spec.num_layers * (norms + heads + biases) + hidden


def weight_bytes(spec: ModelSpec, form: Format) -> float:
    """Bytes of all weights in a format."""
    count = parameters(spec)
    routers = sum(weight.parameters for weight in shapes(spec) if weight.part == "router")
    bits = (count.layers - routers) * form.bits + count.table * form.table_bits
    return (bits + (count.vectors + routers) * FLOAT32_BITS) / 8


def work(spec: ModelSpec, form: Format, cache_item: float, attention_arithmetic: str) -> ModelWork:
    """What steps of a model need in a format. ``cache_item``: bytes of a number in the KV cache."""
    kinds = {HEAD: (form.table_bits, form.table_arithmetic), "router": (FLOAT32_BITS, form.table_arithmetic)}
    weights = []
    for weight in shapes(spec):
        bits, arithmetic = kinds.get(weight.part, (form.bits, form.arithmetic))
        nbytes = weight.outputs * weight.inputs * bits / 8
        weights.append(replace(weight, nbytes=nbytes, arithmetic=arithmetic))
    windows = tuple(layer.window for layer in spec.layers)
    attention = Attention(spec.num_heads, spec.num_kv_heads, spec.head_dim, windows, cache_item, attention_arithmetic)
    return ModelWork(weights, attention)
