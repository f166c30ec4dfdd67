"""The largest logit of each row, found while the head is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_programs import dense, each_variant, noise, one_sequence, open_backend, quantized

from paceline.backends.base import StepOutput


def run(
    variant: str, head: list, x: torch.Tensor, rows: list[int] | None = None, threads: int = 2, **kwargs
) -> StepOutput:
    backend = open_backend(variant, threads)
    table, matrix = backend.matrix([dense(x)]), backend.matrix(head)
    program = backend.compile(lambda ops: ops.logits(ops.select(ops.embed(table)), matrix, **kwargs), len(x))
    return program.run(one_sequence(range(len(x)), logit_rows=rows))


@each_variant
@pytest.mark.parametrize("outs", [5, 16, 17, 1000, 4999])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 23])
def test_best_is_the_argmax(variant: str, outs: int, rows: int) -> None:
    output = run(variant, [quantized("q8", outs, 64)], noise(rows, 64))
    assert output.best.tolist() == output.logits.argmax(dim=1).tolist()


@each_variant
def test_of_selected_rows_only(variant: str) -> None:
    output = run(variant, [quantized("q4", 300, 64)], noise(20, 64), rows=[3, 11, 12, 19])
    assert output.best.tolist() == output.logits.argmax(dim=1).tolist()


@each_variant
def test_equal_logits_give_the_lowest_id_wherever_they_lie(variant: str) -> None:
    for places in ([4, 5], [15, 16], [90, 3000], [0, 4998]):
        weight = torch.full((4999, 32), -1.0)
        weight[places] = 2.0
        output = run(variant, [dense(weight)], torch.ones(3, 32))
        assert output.best.tolist() == [places[0]] * 3


@each_variant
def test_all_negative_logits_of_an_odd_vocabulary(variant: str) -> None:
    weight = -1.0 - torch.arange(21.0).unsqueeze(1).expand(21, 32).flip(0) / 100
    output = run(variant, [dense(weight)], torch.ones(2, 32))
    assert output.best.tolist() == [20, 20]


@each_variant
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_a_logit_that_is_not_finite_has_none(variant: str, bad: float) -> None:
    weight = noise(500, 32)
    weight[321, 5] = bad
    x = torch.zeros(3, 32)
    x[:, 0] = 1.0
    x[1, 5] = 1.0  # 0 * inf is NaN: give the bad weight to all rows, then a head without it
    output = run(variant, [dense(weight)], x)
    assert output.best[1] == -1
    clean = run(variant, [dense(noise(500, 32))], x)
    assert (clean.best >= 0).all()


@each_variant
def test_a_stacked_head_is_left_to_the_sampler(variant: str) -> None:
    output = run(variant, [quantized("q8", 20, 64), quantized("q4", 20, 64)], noise(2, 64))
    assert output.best.tolist() == [-1, -1]


@each_variant
def test_soft_caps_come_first(variant: str) -> None:
    output = run(variant, [dense(noise(700, 32) * 50)], noise(4, 32), softcap=1.0)
    assert output.best.tolist() == [int(np.argmax(row)) for row in output.logits.numpy()]
