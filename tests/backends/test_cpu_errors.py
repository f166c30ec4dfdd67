"""What the native backend refuses, and how it says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_programs import VARIANTS, CpuBackend, dense, noise, one_sequence, open_backend, quantized

from paceline.backends.base import MAX_TREE_ROWS, AttentionLayer, CacheSpec, Ops
from paceline.errors import PacelineError
from paceline.quantization.packed import PackedWeight

VARIANT = VARIANTS[0]


def test_a_variant_that_this_cpu_cannot_run_is_refused_with_those_it_can() -> None:
    with pytest.raises(PacelineError, match=f"cannot run the kernels 'avx9000'; it can run {VARIANT}"):
        CpuBackend(variant="avx9000")


def test_cache_blocks_of_another_size_are_refused() -> None:
    with pytest.raises(PacelineError, match="blocks of 16 tokens, not 32"):
        CpuBackend(threads=1).allocate_cache(CacheSpec(1, 16, (0,), (0,), block_size=32), [1])


def test_more_rows_than_the_program_was_compiled_for_are_refused() -> None:
    backend = open_backend(VARIANT)
    table = backend.matrix([dense(noise(8, 32))])
    program = backend.compile(lambda ops: ops.logits(ops.select(ops.embed(table)), table), 3)
    expected = program.run(one_sequence(range(3))).logits.clone()
    with pytest.raises(ValueError, match="more rows than the program was recorded for"):
        program.run(one_sequence(range(4)))
    assert torch.equal(program.run(one_sequence(range(3))).logits, expected)


def attention_program(layer: AttentionLayer, rows: int):
    backend = open_backend(VARIANT, cache=CacheSpec(layer.num_kv_heads, layer.head_dim, (0,), (0,)), blocks=9)
    qkv = backend.matrix([dense(noise(rows, (layer.num_heads + 2 * layer.num_kv_heads) * layer.head_dim))])
    head = backend.matrix([dense(noise(8, layer.num_heads * layer.head_dim))])

    def build(ops: Ops) -> None:
        ops.logits(ops.select(ops.attention(ops.rope_and_store(ops.embed(qkv), layer), layer)), head)

    return backend.compile(build, rows)


def test_a_token_tree_of_too_many_rows_is_refused() -> None:
    rows = MAX_TREE_ROWS + 1
    program = attention_program(AttentionLayer(0, 2, 1, 16, scale=0.25), rows)
    batch = one_sequence(range(rows))
    batch.parents = np.arange(-1, rows - 1, dtype=np.int32)
    expected = program.run(batch).logits.clone()
    batch.parents[7] = 3
    with pytest.raises(ValueError, match=f"a token tree has {rows} rows, at most {MAX_TREE_ROWS} fit"):
        program.run(batch)
    batch.parents = None
    assert torch.equal(program.run(batch).logits, expected)


@pytest.mark.parametrize(
    "layer, message",
    [
        (AttentionLayer(0, 1, 1, 528, scale=1.0), "head_dim above 512"),
        (AttentionLayer(0, 33, 1, 16, scale=1.0), "more than 32 query heads"),
    ],
    ids=["head_dim", "query heads"],
)
def test_heads_beyond_the_kernels_are_refused_when_compiled(layer: AttentionLayer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_program(layer, 4)


def test_stacked_parts_must_read_the_same_activations() -> None:
    with pytest.raises(AssertionError, match="same activations"):
        CpuBackend(threads=1).matrix([dense(noise(4, 32)), dense(noise(4, 64))])


def test_a_program_needs_a_cache_and_an_output() -> None:
    backend = CpuBackend(threads=1)
    table = backend.matrix([dense(noise(8, 32))])
    with pytest.raises(AssertionError, match="allocate_cache comes before compile"):
        backend.compile(lambda ops: ops.logits(ops.embed(table), table), 1)
    with pytest.raises(AssertionError, match=r"must end in ops\.logits"):
        open_backend(VARIANT).compile(lambda ops: ops.embed(table), 1)


def test_an_unknown_kind_of_weight_is_refused() -> None:
    weight = quantized("q4", 16, 32)
    with pytest.raises(ValueError, match="unknown kind q5"):
        CpuBackend(threads=1).matrix([PackedWeight("q5", weight.data, weight.scale, None, 32)])
