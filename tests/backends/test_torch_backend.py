"""The reference backend, op by op where the fidelity tests do not look."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from paceline.backends.base import AttentionLayer, Batch, CacheSpec, MoELayer, Ops
from paceline.backends.torch_backend import TorchBackend, TorchMatrix, TorchOps
from paceline.quantization.packed import PackedWeight

LAYER = AttentionLayer(layer=0, num_heads=2, num_kv_heads=1, head_dim=4, scale=0.5)


def make_backend(**options: bool) -> TorchBackend:
    backend = TorchBackend(**options)
    backend.allocate_cache(CacheSpec(1, 4, (0,), (0,), block_size=4, dtype="f32"), [4])
    return backend


def make_batch(
    rows: int, *, context: int = 0, table: tuple[int, ...] = (2, 0, 3), parents: list[int] | None = None
) -> Batch:
    """One sequence with ``rows`` new tokens behind ``context`` cached ones."""
    places = range(context, context + rows)
    return Batch(
        token_ids=np.arange(rows, dtype=np.int32),
        positions=np.array(places, dtype=np.int32),
        row_starts=np.array([0, rows], dtype=np.int32),
        context_lens=np.array([context], dtype=np.int32),
        slots=np.array([[table[place // 4] * 4 + place % 4 for place in places]], dtype=np.int32),
        block_tables=np.array([[table]], dtype=np.int32),
        logit_rows=np.arange(rows, dtype=np.int32),
        parents=None if parents is None else np.array(parents, dtype=np.int32),
    )


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def matrix(tensor: torch.Tensor) -> TorchMatrix:
    return TorchMatrix(tensor, ())


def packed(tensor: torch.Tensor) -> PackedWeight:
    return PackedWeight("f32", tensor)


def test_parts_of_different_kinds_are_stacked() -> None:
    codes = torch.randint(0, 256, (3, 16), dtype=torch.uint8)
    quantized = PackedWeight("q4", codes, torch.ones(3, 1), None, group_size=32)
    dense = packed(noise(2, 32))
    stacked = TorchBackend().matrix([quantized, dense]).weight
    assert torch.equal(stacked, torch.cat([quantized.dequantize(), dense.data]))


def test_a_vector_is_a_copy_of_what_the_checkpoint_gave() -> None:
    values = torch.ones(3)
    vector = TorchBackend().vector(values)
    values.zero_()
    assert vector.tolist() == [1, 1, 1]


@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_every_op_gives_a_row_the_same_bits_in_any_company(rows: int) -> None:
    backend, width = make_backend(), 37  # no multiple of any vector width
    weights = {name: noise(width, width + 1)[:, :width] * scale for name, scale in (("a", 0.3), ("b", 0.2), ("c", 0.1))}
    a, b = matrix(weights["a"]), matrix(weights["b"])
    chosen = ([matrix(weights[name])] * 5 for name in "abc")
    experts = MoELayer(matrix(weights["c"][:5]), *chosen, top_k=2, normalize=True)
    functions: dict[str, Callable[[TorchOps, torch.Tensor], torch.Tensor]] = {
        "norm": lambda ops, x: ops.norm(x, weights["a"][0], 1e-6),
        "linear": lambda ops, x: ops.linear(x, a, weights["b"][0]),
        "gated_linear": lambda ops, x: ops.gated_linear(x, a, b, "silu"),
        "add": lambda ops, x: ops.add(x, x, 0.3),
        "moe": lambda ops, x: ops.moe(x, experts),
    }
    x = noise(rows, width)
    for name, function in functions.items():
        together = function(TorchOps(backend, make_batch(1)), x)
        alone = torch.cat([function(TorchOps(backend, make_batch(1)), row.unsqueeze(0)) for row in x])
        assert torch.equal(together, alone), name


def test_the_fast_variant_agrees_up_to_rounding() -> None:
    def attend(backend: TorchBackend) -> torch.Tensor:
        ops = TorchOps(backend, make_batch(9))
        return ops.attention(ops.rope_and_store(noise(9, 16), LAYER), LAYER)

    torch.testing.assert_close(attend(make_backend(row_invariant=False)), attend(make_backend()))


def test_attention_sees_nothing_that_comes_later() -> None:
    def attend(qkv: torch.Tensor) -> torch.Tensor:
        ops = TorchOps(make_backend(), make_batch(6))
        return ops.attention(ops.rope_and_store(qkv, LAYER), LAYER)

    one = noise(6, 16)
    other = one.clone()
    other[4:] += 1
    assert torch.equal(attend(one)[:4], attend(other)[:4])
    assert not torch.equal(attend(one)[4:], attend(other)[4:])


def test_a_tree_row_sees_its_ancestors_and_not_its_siblings() -> None:
    ops = TorchOps(make_backend(), make_batch(4, parents=[-1, 0, 0, 1]))
    assert ops._visible(0, 0, 4, window=0).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]


def test_reading_a_released_block_is_caught() -> None:
    ops = TorchOps(make_backend(), make_batch(2, context=6, table=(-1, 0, 3)))
    q = ops.rope_and_store(noise(2, 16), LAYER)
    with pytest.raises(AssertionError, match="sequence 0 of group 0 reads a released block"):
        ops.attention(q, LAYER)


def test_the_soft_cap_bounds_the_logits() -> None:
    ops = TorchOps(make_backend(), make_batch(2))
    ops.logits(noise(2, 8) * 100, matrix(noise(5, 8)), scale=0.5, softcap=3.0)
    assert ops.output is not None
    assert 2.9 < ops.output.abs().max() <= 3.0


def test_equal_router_scores_choose_the_experts_with_the_lowest_ids() -> None:
    width = 4
    gates = [torch.full((width, width), float(expert + 1)) for expert in range(4)]
    ones = [matrix(torch.eye(width))] * 4
    router, experts = matrix(torch.zeros(4, width)), [matrix(gate) for gate in gates]
    layer = MoELayer(router, experts, ones, ones, top_k=2, normalize=True)
    x = torch.ones(1, width)
    expected = sum(0.5 * torch.nn.functional.silu(x @ gate.T) for gate in gates[:2])
    assert torch.equal(TorchOps(make_backend(), make_batch(1)).moe(x, layer), expected)


def test_a_program_refuses_more_rows_than_it_was_compiled_for() -> None:
    backend, table = make_backend(), noise(8, 4)

    def build(ops: Ops) -> None:
        ops.logits(ops.select(ops.embed(matrix(table), 2.0)), matrix(table))

    program = backend.compile(build, max_rows=3)
    logits = program.run(make_batch(3)).logits
    torch.testing.assert_close(logits, 2.0 * table[:3] @ table.T)
    logits.add_(1.0)  # a sampler may change them in place
    with pytest.raises(AssertionError, match="4 rows, compiled for 3"):
        program.run(make_batch(4))
