"""Turns recorded nodes into a native program: fuses what is memory traffic, gives values buffers and forms.

Fusions: an addition into the matrix product whose result it adds, or with the norms around it into one pass over the
row; a norm with the quantisation that the next product wants; rotation, cache write and attention into one op.

Matrix products read activations in a *form* (int8 groups, blocked floats or bfloat16) that follows from the kind of
their weight; whoever produces the activations writes all the forms its readers want.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from paceline import _cpu
from paceline.backends.base import CacheSpec, RopeSpec
from paceline.backends.cpu.recorder import Node, Value
from paceline.backends.cpu.weights import CpuMatrix

_ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2}
#: Of a buffer: width, forms, rows (0: as many as a step has), whether these are the selected ones.
_Shape = tuple[int, int, int, bool]

_GROUP = 32  # activations that share an int8 scale
_ROW_BLOCK = 8


class Lowering:
    """One pass over the nodes. ``bf16`` says that bfloat16 weights read activations rounded to bfloat16."""

    def __init__(self, program: Any, cache: CacheSpec, max_rows: int, bf16: bool) -> None:
        self.program = program
        self.cache = cache
        self.max_rows = max_rows
        self.bf16 = bf16
        self.buffers: dict[Value, int] = {}  # where a value lives
        self.wants: dict[Value, int] = defaultdict(int)
        self.left: dict[Value, int] = {}  # reads of a value still to come
        self.free: dict[_Shape, list[int]] = defaultdict(list)
        self.shapes: dict[int, _Shape] = {}
        self.owners: dict[int, int] = defaultdict(int)  # values alive in a buffer
        self.ropes: dict[RopeSpec, int] = {}
        self.skip: set[Node] = set()

    def run(self, nodes: list[Node]) -> None:
        """Emits native ops for ``nodes`` into the program and seals it."""
        for node in nodes:
            self.left[node.output] = node.output.uses
            for index, value in enumerate(node.inputs):
                self.wants[value] |= self._wanted(node, index)
        for index, node in enumerate(nodes):
            if node not in self.skip:
                getattr(self, f"_{node.kind}")(node, nodes[index + 1 : index + 3])
        self.program.seal()

    # Forms and buffers.

    def _form(self, matrix: CpuMatrix) -> int:
        forms = 0
        for kind in matrix.kinds:
            if kind in ("q4", "q8"):
                forms |= _cpu.QUANT
            elif kind == "bf16" and self.bf16:
                forms |= _cpu.BF16
            else:
                forms |= _cpu.DENSE
        return forms

    def _wanted(self, node: Node, index: int) -> int:
        if node.kind in ("linear", "logits"):
            return self._form(node.fields["weight"])
        if node.kind == "gated":
            return self._form(node.fields["gate"]) | self._form(node.fields["up"])
        return int(_cpu.PLAIN)

    def _take(self, width: int, want: int, capacity: int = 0, selected: bool = False) -> int:
        shape = (width, want, capacity, selected)
        if self.free[shape]:
            return self.free[shape].pop()
        buffer: int = self.program.rows(*shape)
        self.shapes[buffer] = shape
        return buffer

    def _place(self, value: Value, want: int | None = None) -> int:
        """A buffer for a value that is about to be made."""
        self.buffers[value] = self._take(
            value.width, self.wants[value] if want is None else want, selected=value.selected
        )
        self.owners[self.buffers[value]] += 1
        return self.buffers[value]

    def _read(self, value: Value) -> int:
        """The buffer of a value, for one of its readers; after the last one the buffer may be used again."""
        buffer = self.buffers[value]
        self.left[value] -= 1
        if self.left[value] == 0:
            self._release(buffer)
        return buffer

    def _release(self, buffer: int) -> None:
        self.owners[buffer] -= 1
        if self.owners[buffer] == 0:
            self.free[self.shapes[buffer]].append(buffer)

    def _plain_then_forms(self, value: Value) -> tuple[int, int | None]:
        """Where an op that writes plain floats only puts ``value``: (its buffer, the buffer with the wanted forms)."""
        want = self.wants[value]
        if want in (0, _cpu.PLAIN):
            return self._place(value), None
        plain = self._take(value.width, _cpu.PLAIN, selected=value.selected)
        return plain, self._place(value)

    def _copy_forms(self, value: Value, plain: int, forms: int | None) -> None:
        if forms is not None:
            self._rowwise(plain, out=forms, want=self.wants[value])
            self.free[self.shapes[plain]].append(plain)

    def _rowwise(
        self, x: int, *, y: int = -1, y_norm: Any = None, y_scale: float = 1.0, norm: Any = None, eps: float = 0.0,
        out: int = -1, want: int = 0,
    ) -> None:  # fmt: skip
        self.program.rowwise(x, y, y_norm, y_scale, norm, eps, out, want)

    # Nodes. `after` holds the next two nodes, for fusions that look ahead.

    def _embed(self, node: Node, after: list[Node]) -> None:
        plain, forms = self._plain_then_forms(node.output)
        self.program.embed(node.fields["table"].native, node.fields["scale"], plain)
        self._copy_forms(node.output, plain, forms)

    def _input(self, node: Node, after: list[Node]) -> None:
        plain, forms = self._plain_then_forms(node.output)
        self.program.input(plain)
        self._copy_forms(node.output, plain, forms)

    def _norm(self, node: Node, after: list[Node]) -> None:
        (x,) = node.inputs
        add = self._sum_in_place(node, after)
        if add is not None:
            # x + norm(y): the pass that adds makes the norm as well.
            self.skip.add(add)
            self._add_in_place(add, self._read(x), after[1:], y_norm=node.fields["weight"], eps=node.fields["eps"])
            return
        source = self._read(x)
        self._rowwise(
            source, norm=node.fields["weight"], eps=node.fields["eps"],
            out=self._place(node.output), want=self.wants[node.output],
        )  # fmt: skip

    def _linear(self, node: Node, after: list[Node]) -> None:
        add = self._sum_in_place(node, after)
        weight, bias = node.fields["weight"], node.fields["bias"]
        x = node.inputs[0]
        if add is not None and (bias is None or add.fields["scale"] == 1.0):
            self.skip.add(add)
            target = self._alias(add)
            self.program.linear(weight.native, self._read(x), target, bias, True, add.fields["scale"], False, 0.0)
            return
        plain, forms = self._plain_then_forms(node.output)
        self.program.linear(weight.native, self._read(x), plain, bias, False, 1.0, False, 0.0)
        self._copy_forms(node.output, plain, forms)

    def _gated(self, node: Node, after: list[Node]) -> None:
        gate, up, activation = node.fields["gate"], node.fields["up"], _ACTIVATIONS[node.fields["activation"]]
        out = self._place(node.output)
        x = self._read(node.inputs[0])
        self.program.gated(gate.native, up.native, x, out, activation, self.wants[node.output])

    def _sum_in_place(self, node: Node, after: list[Node]) -> Node | None:
        """The addition right behind ``node`` that alone reads its value and can be made in place."""
        add = after[0] if after else None
        if add is None or add.kind != "add" or add.inputs[1] is not node.output or node.output.uses != 1:
            return None
        return add if self._in_place(add) else None

    def _in_place(self, add: Node) -> bool:
        """Whether the sum may overwrite its first operand: nobody else reads that, and it holds plain floats."""
        x = add.inputs[0]
        return self.left[x] == 1 and self.wants[x] == _cpu.PLAIN and self.wants[add.output] in (0, _cpu.PLAIN)

    def _alias(self, add: Node) -> int:
        x = add.inputs[0]
        buffer = self.buffers[x]
        self.left[x] -= 1
        self.buffers[add.output] = buffer  # ownership passes on
        return buffer

    def _add_in_place(self, add: Node, y: int, after: list[Node], y_norm: Any = None, eps: float = 0.0) -> None:
        x = self._alias(add)
        norm = after[0] if after else None
        follows = norm is not None and norm.kind == "norm" and norm.inputs[0] is add.output
        if norm is not None and follows and (y_norm is None or norm.fields["eps"] == eps):
            self.skip.add(norm)
            self._read(add.output)
            self._rowwise(
                x, y=y, y_norm=y_norm, y_scale=add.fields["scale"], norm=norm.fields["weight"],
                eps=norm.fields["eps"], out=self._place(norm.output), want=self.wants[norm.output],
            )  # fmt: skip
            return
        self._rowwise(x, y=y, y_norm=y_norm, y_scale=add.fields["scale"], eps=eps)

    def _add(self, node: Node, after: list[Node]) -> None:
        x, y = node.inputs
        if self._in_place(node):
            self._add_in_place(node, self._read(y), after)
            return
        # Somebody else reads x (or wants it in another form): copy it, then add to the copy.
        plain, forms = self._plain_then_forms(node.output)
        self._rowwise(self._read(x), out=plain, want=_cpu.PLAIN)
        self._rowwise(plain, y=self._read(y), y_scale=node.fields["scale"])
        self._copy_forms(node.output, plain, forms)

    def _rope(self, node: Node, after: list[Node]) -> None:
        attention = after[0]
        assert attention.kind == "attention" and attention.inputs[0] is node.output, "attention follows its rotation"
        self.skip.add(attention)
        layer = node.fields["layer"]
        direct = layer.head_dim % _GROUP == 0 or self.wants[attention.output] == _cpu.PLAIN
        if direct:
            out, forms, want = self._place(attention.output), None, self.wants[attention.output]
        else:
            out, forms = self._plain_then_forms(attention.output)
            want = _cpu.PLAIN
        q = self._take(node.output.width, _cpu.PLAIN)
        group = self.cache.layer_group[layer.layer]
        self.program.attention(
            group=group,
            layer_in_group=self.cache.layer_group[: layer.layer].count(group),
            heads=layer.num_heads, kv_heads=layer.num_kv_heads, dim=layer.head_dim, scale=layer.scale,
            softcap=layer.softcap, eps=layer.norm_eps, window=layer.window, rope=self._rope_table(layer.rope),
            q_norm=layer.q_norm, k_norm=layer.k_norm, qkv=self._read(node.inputs[0]), q=q, out=out, want=want,
        )  # fmt: skip
        self.free[self.shapes[q]].append(q)
        self._copy_forms(attention.output, out, forms)

    def _rope_table(self, rope: RopeSpec | None) -> int:
        if rope is None:
            return -1
        if rope not in self.ropes:
            self.ropes[rope] = self.program.rope(list(rope.inv_freq), rope.attention_factor)
        return self.ropes[rope]

    def _moe(self, node: Node, after: list[Node]) -> None:
        x, router = node.inputs
        layer = node.fields["layer"]
        gate, up, down = layer.gate, layer.up, layer.down
        pairs = self.max_rows * layer.top_k + len(gate) * _ROW_BLOCK  # each expert's pairs start on a block boundary
        x_want = self._form(gate[0]) | self._form(up[0])
        hidden_want = self._form(down[0])
        temporary = [
            self._take(x.width, x_want, pairs, x.selected),
            self._take(gate[0].rows, hidden_want, pairs, x.selected),
            self._take(x.width, _cpu.PLAIN, pairs, x.selected),
        ]
        plain, forms = self._plain_then_forms(node.output)
        self.program.moe(
            self._read(router), self._read(x), [m.native for m in gate], [m.native for m in up],
            [m.native for m in down], layer.top_k, layer.normalize, _ACTIVATIONS[layer.activation], x_want, hidden_want,
            *temporary, plain,
        )  # fmt: skip
        for buffer in temporary:
            self.free[self.shapes[buffer]].append(buffer)
        self._copy_forms(node.output, plain, forms)

    def _select(self, node: Node, after: list[Node]) -> None:
        norm = after[0] if after else None
        fused = norm is not None and norm.kind == "norm" and norm.inputs[0] is node.output and node.output.uses == 1
        target = norm if fused and norm is not None else node
        weight, eps = (target.fields["weight"], target.fields["eps"]) if fused else (None, 0.0)
        self.skip.add(target)
        out = self._place(target.output)  # not in place: rows change places
        source = self._read(node.inputs[0])
        self._rowwise(source, norm=weight, eps=eps, out=out, want=self.wants[target.output])

    def _capture(self, node: Node, after: list[Node]) -> None:
        # As a reader it keeps the value from being overwritten, and sees to it that there are plain floats of it.
        self.program.capture(self._read(node.inputs[0]))

    def _logits(self, node: Node, after: list[Node]) -> None:
        weight, scale, softcap = node.fields["weight"], node.fields["scale"], node.fields["softcap"]
        self.program.linear(weight.native, self._read(node.inputs[0]), -1, None, False, scale, True, softcap)
