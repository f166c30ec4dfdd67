"""The ceilings of a device that torch has, a GPU above all: copies within its memory and products of large matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paceline.bench.roofline.reading import timed
from paceline.bench.roofline.work import Ceilings
from paceline.errors import PacelineError

COPY_BYTES = 1 << 30
SIZE = 4096  # rows, inputs and outputs of the products
RUNS = 5  # of which the fastest counts
FP8_CAPABILITY = (8, 9)  # the first chips with units for it


def cuda_ceilings() -> tuple[str, int, Ceilings]:
    """Name, bytes of memory and ceilings of the first CUDA device. Raises ``PacelineError`` where torch sees none."""
    if not torch.cuda.is_available():
        raise PacelineError("torch sees no CUDA device here: name a GPU of the table, or plan for this CPU with --cpu")
    device = torch.device("cuda", 0)
    properties = torch.cuda.get_device_properties(device)
    return properties.name, properties.total_memory, device_ceilings(device)


def device_ceilings(device: torch.device, copy_bytes: int = COPY_BYTES, size: int = SIZE) -> Ceilings:
    """Bandwidth as bytes read and written by a copy, and the rates of the arithmetics that the device multiplies."""
    source = torch.zeros(copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * copy_bytes / _fastest(lambda: target.copy_(source), device)
    rates = {}
    for arithmetic, multiply in _products(device, size).items():
        try:
            seconds = _fastest(multiply, device)
        except (RuntimeError, NotImplementedError):
            if arithmetic in ("bf16", "f32"):
                raise
            continue  # this device or build has no such product: plans do not offer what it would serve
        rates[arithmetic] = 2.0 * size**3 / seconds
    return Ceilings(bandwidth, rates)


def _products(device: torch.device, size: int) -> dict[str, Callable[[], object]]:
    wide = torch.randn(size, size, device=device)
    half, whole = wide.to(torch.bfloat16), wide.mul(20).to(torch.int8)
    columns = whole.t().contiguous().t()
    products: dict[str, Callable[[], object]] = {
        "bf16": lambda: torch.mm(half, half),
        "f32": lambda: torch.mm(wide, wide),
        "int8": lambda: torch._int_mm(whole, columns),
    }
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY:
        narrow, one = wide.to(torch.float8_e4m3fn), torch.ones((), device=device)
        narrow_columns = narrow.t().contiguous().t()
        products["fp8"] = lambda: torch._scaled_mm(narrow, narrow_columns, one, one, out_dtype=torch.bfloat16)
    return products


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    def whole() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    whole()  # the first one chooses kernels and takes memory
    return min(timed(whole) for _ in range(RUNS))
