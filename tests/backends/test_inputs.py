"""Rows that the caller gives: every column arrives, in order, in whatever form its reader wants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paceline.backends.base import Backend, Batch, CacheSpec, Ops
from paceline.backends.registry import get_backend
from paceline.errors import PacelineError
from paceline.quantization.packed import PackedWeight
from paceline.quantization.rounding import quantize

WIDTHS = (40, 96)  # one of them no whole span
OUT = 24


@pytest.fixture(params=["torch", "cpu"])
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        made = get_backend(request.param) if request.param == "torch" else get_backend(request.param, threads=2)
    except PacelineError as error:
        pytest.skip(str(error))
    made.allocate_cache(CacheSpec(1, 16, (0,), (0,)), [4])
    return made


def weights(width: int, quantized: bool) -> PackedWeight:
    values = torch.randn(OUT, width, generator=torch.Generator().manual_seed(width)) / width**0.5
    return quantize(values, "q8") if quantized else PackedWeight("f32", values)


def batch(inputs: np.ndarray | None, rows: int) -> Batch:
    def ints(values: object) -> np.ndarray:
        return np.array(values, dtype=np.int32)

    count = list(range(rows))
    return Batch(ints([0] * rows), ints(count), ints([0, rows]), ints([0]), ints([count]), ints([[[0, 1, 2, 3]]]),
                 ints(count), inputs=inputs)  # fmt: skip


def build(backend: Backend, quantized: bool) -> object:
    packed = [weights(width, quantized and width == 96) for width in WIDTHS]
    laid = [backend.matrix([weight]) for weight in packed]
    identity = backend.matrix([PackedWeight("f32", torch.eye(OUT))])

    def model(ops: Ops) -> None:
        first, second = (ops.input(width) for width in WIDTHS)
        ops.logits(ops.select(ops.add(ops.linear(first, laid[0]), ops.linear(second, laid[1]))), identity)

    return backend.compile(model, 32), [weight.dequantize() for weight in packed]


@pytest.mark.parametrize("quantized", [False, True])
def test_each_input_has_its_columns(backend: Backend, quantized: bool) -> None:
    program, (first, second) = build(backend, quantized)
    for rows in (1, 9, 32, 3):
        inputs = torch.randn(rows, sum(WIDTHS), generator=torch.Generator().manual_seed(rows))
        found = program.run(batch(inputs.numpy(), rows)).logits
        expected = inputs[:, :40] @ first.T + inputs[:, 40:] @ second.T
        assert torch.allclose(found, expected, atol=0.03 if quantized and backend.name == "cpu" else 1e-5)


def test_a_rows_result_does_not_depend_on_its_company(backend: Backend) -> None:
    program, _ = build(backend, True)
    inputs = np.random.default_rng(1).normal(size=(17, sum(WIDTHS))).astype(np.float32)
    together = program.run(batch(inputs, 17)).logits.clone()
    for row in range(17):
        assert torch.equal(program.run(batch(inputs[row : row + 1].copy(), 1)).logits[0], together[row])


def test_inputs_of_another_shape_are_refused(backend: Backend) -> None:
    program, _ = build(backend, False)
    narrow = np.zeros((3, sum(WIDTHS) - 1), dtype=np.float32)
    for wrong in (None, narrow):
        with pytest.raises((ValueError, AssertionError), match=r"inputs must be \[3, 136\]|reads [0-9]+ columns"):
            program.run(batch(wrong, 3))
