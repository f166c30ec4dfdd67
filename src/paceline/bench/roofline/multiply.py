"""How fast this machine multiplies: several ways that it has are tried, and the fastest is its rate.

The ways of an arithmetic are torch's matrix product and, where the native core runs here, the engine's own product of
many rows. Both on matrices that stay in the caches, so that memory does not count. A rate that only the engine's kernel
defined would call that kernel perfect; one of torch alone would miss what torch is not built for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from paceline.backends.base import Backend, Batch, CacheSpec, Ops, Rows
from paceline.backends.registry import get_backend
from paceline.bench.roofline.reading import timed
from paceline.errors import PacelineError
from paceline.quantization.packed import PackedWeight
from paceline.quantization.rounding import quantize

SIZES = (512, 1024)  # inputs and outputs of the products that are tried
ROWS = 512
CHAIN = 4  # products in one native call, beside which the call costs nothing
#: Kinds of weights of the engine, by which its product is measured alone: what a plan for this engine needs.
ENGINE_ONLY = ("q4", "q8")
RUNS = 5  # of which the fastest counts: what else the machine does only adds to it


@dataclass(frozen=True, slots=True)
class Way:
    """One way to multiply: ``run`` does ``ops`` operations."""

    arithmetic: str
    name: str
    ops: float
    run: Callable[[], object]

    def rate(self) -> float:
        """Operations a second, of the fastest of a few runs."""
        return self.ops / min(timed(self.run) for _ in range(RUNS))


def ways(arithmetic: str, threads: int) -> list[Way]:
    """All ways that work on this machine, those of ``ENGINE_ONLY`` being its own; none where the native core does not
    run."""
    found = []
    for size in SIZES:
        for make in (_torch_way, _native_way):
            way = make(arithmetic, size, threads)
            if way is not None:
                way.run()
                found.append(way)
    return found


def _torch_way(arithmetic: str, size: int, threads: int) -> Way | None:
    if arithmetic in ENGINE_ONLY:
        return None
    a, b = torch.randn(ROWS, size), torch.randn(size, size)
    multiply: Callable[[], object]
    if arithmetic == "int8":
        a8, b8 = (tensor.mul(20).to(torch.int8) for tensor in (a, b))
        try:
            torch._int_mm(a8, b8)
        except (RuntimeError, AttributeError):  # not in every build of torch; the engine's own product is
            return None
        multiply = lambda: torch._int_mm(a8, b8)  # noqa: E731
    else:
        dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[arithmetic]
        a, b = a.to(dtype), b.to(dtype)
        multiply = lambda: torch.mm(a, b)  # noqa: E731

    def run() -> None:
        with torch_threads(threads):
            multiply()

    return Way(arithmetic, f"torch, {size} x {size}", 2.0 * ROWS * size * size, run)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's own threads, which the engine leaves at one beside its team."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _native_way(arithmetic: str, size: int, threads: int) -> Way | None:
    try:
        backend = get_backend("cpu", threads=threads)
    except PacelineError:
        return None
    weights = torch.randn(size, size)
    packed = {
        "int8": lambda: quantize(weights, "q8"),
        "q8": lambda: quantize(weights, "q8"),
        "q4": lambda: quantize(weights, "q4"),
        "bf16": lambda: PackedWeight("bf16", weights.to(torch.bfloat16)),
        "f32": lambda: PackedWeight("f32", weights),
    }[arithmetic]()
    run = _product(backend, packed, size)
    return Way(arithmetic, f"the engine's product, {size} x {size}", 2.0 * CHAIN * ROWS * size * size, run)


def _product(backend: Backend, packed: PackedWeight, size: int) -> Callable[[], object]:
    backend.allocate_cache(CacheSpec(1, 16, (0,), (0,)), [1])
    matrix, end = backend.matrix([packed]), backend.matrix([PackedWeight("f32", torch.zeros(16, size))])

    def build(ops: Ops) -> None:
        x = ops.input(size)
        ops.logits(ops.select(added(ops, (ops.linear(x, matrix) for _ in range(CHAIN)))), end)

    program = backend.compile(build, ROWS)
    batch = rows_of_one_sequence(ROWS, np.random.default_rng(0).standard_normal((ROWS, size), dtype=np.float32))
    return lambda: program.run(batch)


def added(ops: Ops, values: Iterable[Rows]) -> Rows:
    """The sum of values that are recorded as they are drawn: all of them are read, by what costs least (a product adds
    its result to another's by itself)."""
    total: Rows = None
    for value in values:
        total = value if total is None else ops.add(total, value)
    return total


def rows_of_one_sequence(rows: int, inputs: np.ndarray, logits: bool = False) -> Batch:
    """A step for programs that look at nothing but ``inputs`` ``[rows, width]``; with logits of all rows or of none."""
    places = np.arange(rows, dtype=np.int32)
    return Batch(
        token_ids=np.zeros(rows, dtype=np.int32),
        positions=places,
        row_starts=np.array([0, rows], dtype=np.int32),
        context_lens=np.zeros(1, dtype=np.int32),
        slots=places.reshape(1, -1),
        block_tables=np.arange(-(-rows // 16), dtype=np.int32).reshape(1, 1, -1),
        logit_rows=places if logits else places[:0],
        inputs=inputs,
    )
