"""Small programs on the native backend: one op between an exact embedding and an exact head, and what it must give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from paceline.backends.base import Batch, CacheSpec, Ops
from paceline.quantization.packed import ZERO_POINT, Kind, PackedWeight

_cpu = pytest.importorskip("paceline._cpu", reason="the native core was not built")

from paceline.backends.cpu.backend import CpuBackend  # noqa: E402

VARIANTS = [name for name, _ in _cpu.variants()]
if not VARIANTS:
    pytest.skip("the native core has no kernels for this CPU", allow_module_level=True)
#: Variants that read activations rounded to bfloat16 where the weight is bfloat16.
BF16_ACTIVATIONS = {name for name, rounded in _cpu.variants() if rounded}

each_variant = pytest.mark.parametrize("variant", VARIANTS)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def spread(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Activations whose groups differ in size by orders of magnitude, as those of real models do."""
    return noise(rows, width, seed=seed) * torch.exp(2.0 * noise(rows, width, seed=seed + 1))


def dense(tensor: torch.Tensor, kind: Kind = "f32") -> PackedWeight:
    dtypes = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    return PackedWeight(kind, tensor.to(dtypes[kind]))


def quantized(
    kind: Kind,
    rows: int,
    columns: int,
    *,
    group: int = 32,
    minima: bool = False,
    scales: torch.dtype = torch.float16,
    seed: int = 0,
) -> PackedWeight:
    """Random codes that use the whole range, with scales of very different sizes."""
    generator = torch.Generator().manual_seed(seed + rows + columns + group)
    data = torch.randint(0, 256, (rows, columns // (2 if kind == "q4" else 1)), generator=generator, dtype=torch.uint8)
    scale = torch.exp(noise(rows, columns // group, seed=seed)) / (ZERO_POINT[kind] * columns**0.5)
    minimum = (noise(rows, columns // group, seed=seed + 1) / columns**0.5).to(scales) if minima else None
    return PackedWeight(kind, data, scale.to(scales), minimum, group)


def open_backend(variant: str, threads: int = 1, cache: CacheSpec | None = None, blocks: int = 1) -> CpuBackend:
    backend = CpuBackend(threads=threads, variant=variant)
    cache = cache or CacheSpec(1, 16, (0,), (0,))
    backend.allocate_cache(cache, [blocks] * cache.num_groups)
    return backend


def ints(values: Any) -> np.ndarray:
    return np.ascontiguousarray(list(values), dtype=np.int32)


def one_sequence(token_ids: Sequence[int], context: int = 0, logit_rows: Sequence[int] | None = None) -> Batch:
    """Rows of one sequence whose blocks lie in order: for programs that do not care about sequences."""
    rows = len(token_ids)
    places = ints(range(context, context + rows))
    blocks = (context + rows + 15) // 16
    return Batch(
        token_ids=ints(token_ids),
        positions=places.copy(),
        row_starts=ints([0, rows]),
        context_lens=ints([context]),
        slots=places.reshape(1, -1),
        block_tables=ints(range(max(blocks, 1))).reshape(1, 1, -1),
        logit_rows=ints(range(rows) if logit_rows is None else logit_rows),
    )


class RowFunction:
    """``function(ops, x, backend)`` compiled once; called with row numbers of ``inputs`` it gives its outputs for them.

    The embedding table holds the inputs and the head is the identity, both float32, so nothing is rounded but by the
    function itself.
    """

    def __init__(
        self,
        variant: str,
        inputs: torch.Tensor,
        width: int,
        function: Callable[[Ops, Any, CpuBackend], Any],
        *,
        threads: int = 1,
        max_rows: int = 64,
        cache: CacheSpec | None = None,
    ) -> None:
        backend = open_backend(variant, threads, cache, blocks=max_rows // 16 + 1)
        table, identity = backend.matrix([dense(inputs)]), backend.matrix([dense(torch.eye(width))])

        def build(ops: Ops) -> None:
            ops.logits(ops.select(function(ops, ops.embed(table), backend)), identity)

        self.inputs = inputs
        self.program = backend.compile(build, max_rows)

    def __call__(self, rows: Sequence[int] | None = None, context: int = 0, first_position: int = 0) -> torch.Tensor:
        """The rows are those of one sequence behind ``context`` cached ones, its first token at ``first_position``."""
        batch = one_sequence(list(range(len(self.inputs)) if rows is None else rows), context)
        batch.positions += np.int32(first_position)
        return self.program.run(batch).logits.clone()


def product(
    variant: str,
    parts: Sequence[PackedWeight],
    x: torch.Tensor,
    scale: float = 1.0,
    softcap: float = 0.0,
    **options: int,
) -> torch.Tensor:
    """``x @ weight.T`` as the head of a program."""
    backend = open_backend(variant, **options)
    table, head = backend.matrix([dense(x)]), backend.matrix(parts)
    program = backend.compile(lambda ops: ops.logits(ops.select(ops.embed(table)), head, scale, softcap), len(x))
    return program.run(one_sequence(range(len(x)))).logits.clone()


def int8_activations(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The rounding that quantized products see, operation by operation in float32: whole numbers [T, G, 32] and their
    scales [T, G], the last group filled up with zeros."""
    rows, width = x.shape
    padded = np.zeros((rows, -(-width // 32) * 32), np.float32)
    padded[:, :width] = x.numpy()
    groups = padded.reshape(rows, -1, 32)
    top = np.abs(groups).max(-1)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 1e-36)
    return np.rint(groups * inverse[..., None]).astype(np.int64), top / np.float32(127)


def expected_product(variant: str, weight: PackedWeight, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """``x @ weight.T`` in float64 with exactly the variant's rounding of activations, and the largest error that its
    float32 sums may make."""
    values = weight.dequantize().numpy().astype(np.float64)
    if weight.quantized:
        whole, scales = int8_activations(x)
        read = (whole * scales[..., None].astype(np.float64)).reshape(len(x), -1)[:, : x.shape[1]]
    elif weight.kind == "bf16" and variant in BF16_ACTIVATIONS:
        read = x.bfloat16().double().numpy()
    else:
        read = x.double().numpy()
    terms = np.abs(read) @ np.abs(values).T
    if weight.minimum is not None:  # codes and minima are added separately, and may cancel
        assert weight.scale is not None
        size = weight.scale.double() * (2 * ZERO_POINT[weight.kind]) + weight.minimum.double().abs()
        terms = np.abs(read) @ size.numpy().repeat(weight.group_size, 1).T
    steps = weight.shape[1] if not weight.quantized else 2 * (-(-weight.shape[1] // 32) + 2)
    return read @ values.T, terms * steps * 2.0**-24 + 1e-36
