"""Records the decoder's op calls as a graph of values, to be fused and lowered (``lowering.py``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from paceline.backends.base import Activation, AttentionLayer, MoELayer
from paceline.backends.cpu.weights import CpuMatrix


@dataclass(slots=True, eq=False)
class Value:
    """Activations ``[rows, width]``, of all rows of the step or of the ``selected`` ones. ``uses`` counts the nodes
    that read them."""

    width: int
    selected: bool = False
    uses: int = 0
    source: Node | None = None


@dataclass(slots=True, eq=False)
class Node:
    """One op call: its kind, the values it reads, the value it makes, and everything else."""

    kind: str
    inputs: tuple[Value, ...]
    output: Value
    fields: dict[str, Any] = field(default_factory=dict)


class Recorder:
    """Implements ``Ops`` by remembering the calls."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def _emit(self, kind: str, width: int, *inputs: Value, **fields: Any) -> Value:
        assert len({value.selected for value in inputs}) < 2, f"{kind} would mix selected rows with all rows"
        output = Value(width, selected=kind == "select" or any(value.selected for value in inputs))
        for value in inputs:
            value.uses += 1
        output.source = Node(kind, inputs, output, fields)
        self.nodes.append(output.source)
        return output

    def embed(self, table: CpuMatrix, scale: float = 1.0) -> Value:
        return self._emit("embed", table.columns, table=table, scale=scale)

    def input(self, width: int) -> Value:
        return self._emit("input", width)

    def norm(self, x: Value, weight: Any, eps: float) -> Value:
        return self._emit("norm", x.width, x, weight=weight, eps=eps)

    def linear(self, x: Value, weight: CpuMatrix, bias: Any = None) -> Value:
        return self._emit("linear", weight.rows, x, weight=weight, bias=bias)

    def gated_linear(self, x: Value, gate: CpuMatrix, up: CpuMatrix, activation: Activation) -> Value:
        return self._emit("gated", gate.rows, x, gate=gate, up=up, activation=activation)

    def add(self, x: Value, y: Value, scale: float = 1.0) -> Value:
        return self._emit("add", x.width, x, y, scale=scale)

    def rope_and_store(self, qkv: Value, layer: AttentionLayer) -> Value:
        return self._emit("rope", layer.num_heads * layer.head_dim, qkv, layer=layer)

    def attention(self, q: Value, layer: AttentionLayer) -> Value:
        return self._emit("attention", layer.num_heads * layer.head_dim, q, layer=layer)

    def moe(self, x: Value, layer: MoELayer) -> Value:
        router = self.linear(x, layer.router)
        return self._emit("moe", x.width, x, router, layer=layer)

    def select(self, x: Value) -> Value:
        return self._emit("select", x.width, x)

    def logits(self, x: Value, head: CpuMatrix, scale: float = 1.0, softcap: float = 0.0) -> None:
        self._emit("logits", head.rows, x, weight=head, scale=scale, softcap=softcap)

    def capture(self, x: Value) -> None:
        self._emit("capture", 0, x)


def record(build: Callable[[Any], None]) -> list[Node]:
    """The nodes that ``build`` emits, in order."""
    recorder = Recorder()
    build(recorder)
    assert recorder.nodes and recorder.nodes[-1].kind == "logits", "a model must end in ops.logits"
    return recorder.nodes
