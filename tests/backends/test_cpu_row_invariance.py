"""A row's result is bit-identical whatever other rows are in the step, op by op, on any number of threads."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cpu_programs import RowFunction, dense, each_variant, noise, one_sequence, open_backend, quantized, spread

from paceline.backends.base import MoELayer, Ops
from paceline.backends.cpu.backend import CpuBackend
from paceline.quantization.packed import PackedWeight

ROWS, WIDTH, OUTS = 21, 160, 72
Function = Callable[[Ops, Any, CpuBackend], Any]


def linear(*parts: Any) -> Function:
    return lambda ops, x, backend: ops.linear(x, backend.matrix(parts), backend.vector(noise(OUTS)))


def gated(gate: Any, up: Any, activation: str = "silu") -> Function:
    return lambda ops, x, backend: ops.gated_linear(x, backend.matrix([gate]), backend.matrix([up]), activation)


def mixture(kind: str) -> Function:
    """Seven experts, of which few rows share one."""

    def function(ops: Ops, x: Any, backend: CpuBackend) -> Any:
        def experts(rows: int, columns: int, seed: int) -> list[Any]:
            if kind == "bf16":
                weights = [dense(noise(rows, columns, seed=seed + i) / 12, "bf16") for i in range(7)]
            else:
                weights = [quantized(kind, rows, columns, minima=True, seed=seed + i) for i in range(7)]
            return [backend.matrix([weight]) for weight in weights]

        router = backend.matrix([dense(noise(7, WIDTH) / 10)])
        gate, up, down = experts(96, WIDTH, 1), experts(96, WIDTH, 20), experts(WIDTH, 96, 40)
        return ops.moe(x, MoELayer(router, gate, up, down, top_k=3, normalize=True))

    return function


def residuals(ops: Ops, x: Any, backend: CpuBackend) -> Any:
    """Additions between norms, as they stand between two products."""
    y = ops.norm(ops.linear(x, backend.matrix([quantized("q8", WIDTH, WIDTH)])), backend.vector(noise(WIDTH)), 1e-6)
    return ops.norm(ops.add(x, y, 0.7), backend.vector(noise(WIDTH)), 1e-6)


FUNCTIONS: dict[str, tuple[int, Function]] = {
    "norm": (WIDTH, lambda ops, x, backend: ops.norm(x, backend.vector(noise(WIDTH)), 1e-6)),
    "residuals": (WIDTH, residuals),
    "add": (WIDTH, lambda ops, x, backend: ops.add(x, x, 0.3)),
    "f32": (OUTS, linear(dense(noise(OUTS, WIDTH)))),
    "f16": (OUTS, linear(dense(noise(OUTS, WIDTH), "f16"))),
    "bf16": (OUTS, linear(dense(noise(OUTS, WIDTH), "bf16"))),
    "q4": (OUTS, linear(quantized("q4", OUTS, WIDTH))),
    "q4-minima": (OUTS, linear(quantized("q4", OUTS, WIDTH, minima=True, scales=torch.float32))),
    "q8": (OUTS, linear(quantized("q8", OUTS, WIDTH))),
    "q8-minima": (OUTS, linear(quantized("q8", OUTS, WIDTH, minima=True))),
    "q8-groups-of-16": (OUTS, linear(quantized("q8", OUTS, WIDTH, group=16))),
    "stacked": (OUTS, linear(quantized("q4", 40, WIDTH), quantized("q8", 20, WIDTH), dense(noise(12, WIDTH), "bf16"))),
    "gated-silu": (OUTS, gated(quantized("q4", OUTS, WIDTH), quantized("q8", OUTS, WIDTH))),
    "gated-gelu-tanh": (OUTS, gated(dense(noise(OUTS, WIDTH)), quantized("q8", OUTS, WIDTH), "gelu_tanh")),
    "gated-gelu": (OUTS, gated(dense(noise(OUTS, WIDTH), "bf16"), dense(noise(OUTS, WIDTH), "f16"), "gelu")),
    "moe-q4": (WIDTH, mixture("q4")),
    "moe-bf16": (WIDTH, mixture("bf16")),
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def make(name: str, variant: str, threads: int = 1) -> RowFunction:
    width, function = FUNCTIONS[name]
    return RowFunction(variant, spread(ROWS, WIDTH), width, function, threads=threads)


@each_variant
@each_function
def test_a_row_in_any_company_is_the_row_alone(variant: str, name: str) -> None:
    function, order = make(name, variant), random.Random(0)
    alone = torch.cat([function([row]) for row in range(ROWS)])
    assert not torch.equal(alone[0], alone[1])
    for count in range(2, ROWS):
        rows = [order.randrange(ROWS) for _ in range(count)]
        assert torch.equal(function(rows), alone[rows]), f"rows {rows} together"


@each_variant
@each_function
def test_any_number_of_threads_gives_the_same_bits(variant: str, name: str) -> None:
    one = make(name, variant)()
    for threads in (2, 3, 5):
        several = make(name, variant, threads)
        for _ in range(3):
            assert torch.equal(several(), one), f"{threads} threads"


@each_variant
@pytest.mark.parametrize("norms", [0, 1, 2])
@pytest.mark.parametrize("head", [quantized("q4", OUTS, WIDTH), dense(noise(OUTS, WIDTH))], ids=["q4", "f32"])
def test_a_row_with_logits_is_the_same_row_without_company(variant: str, norms: int, head: PackedWeight) -> None:
    """Any choice of the rows whose logits are wanted; with two norms their first result is plain floats."""
    backend, order = open_backend(variant, 3, blocks=ROWS // 16 + 1), random.Random(1)
    table, matrix, weight = backend.matrix([dense(spread(ROWS, WIDTH))]), backend.matrix([head]), noise(WIDTH)
    vector = backend.vector(weight)

    def build(ops: Ops) -> None:
        x = ops.select(ops.embed(table))
        for _ in range(norms):
            x = ops.norm(x, vector, 1e-6)
        ops.logits(x, matrix)

    program = backend.compile(build, ROWS)
    every = program.run(one_sequence(range(ROWS))).logits.clone()
    for count in (0, 1, 2, 8, 9, 13, ROWS - 1):
        wanted = sorted(order.sample(range(ROWS), count))
        assert torch.equal(program.run(one_sequence(range(ROWS), logit_rows=wanted)).logits, every[wanted])
