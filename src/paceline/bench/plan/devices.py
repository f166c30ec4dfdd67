"""GPUs as their vendors' data sheets describe them.

Rates are dense (without structured sparsity), in operations a second, with sums in float32 where the sheet
distinguishes. Memory is as sold, taken as GiB: what the driver shows differs by a few percent and a plan keeps a tenth
free anyway. Prices are not here: they change, and users know theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from paceline.errors import PacelineError

T = 1e12
GIB = 2**30
Link = Literal["fabric", "pcie"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """``memory`` in bytes, ``bandwidth`` in bytes a second, ``rates`` by arithmetic: ``bf16`` (float16 where the chip
    has no bfloat16), ``fp8`` and ``int8`` where the chip has them. ``link``: what joins several of them: a fabric of
    their own (NVLink, Infinity Fabric) or PCIe."""

    name: str
    title: str
    memory: int
    bandwidth: float
    rates: Mapping[str, float]
    link: Link
    source: str


def _gpu(
    name: str,
    title: str,
    gigabytes: int,
    bandwidth: float,
    rates: tuple[float, float, float],
    link: Link,
    source: str,
) -> Gpu:
    """``bandwidth`` in TB/s, ``rates`` in TOP/s: bf16, fp8, int8; 0: not there."""
    named = {name: rate * T for name, rate in zip(("bf16", "fp8", "int8"), rates, strict=True) if rate}
    return Gpu(name, title, gigabytes * GIB, bandwidth * T, named, link, source)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("b200", "NVIDIA B200 SXM", 180, 7.7, (2250, 4500, 4500), "fabric", "NVIDIA HGX B200 data sheet"),
        _gpu("h200", "NVIDIA H200 SXM", 141, 4.8, (989, 1979, 1979), "fabric", "NVIDIA H200 data sheet"),
        _gpu("h100", "NVIDIA H100 SXM", 80, 3.35, (989, 1979, 1979), "fabric", "NVIDIA H100 data sheet"),
        _gpu("h100-nvl", "NVIDIA H100 NVL", 94, 3.9, (835, 1671, 1671), "fabric", "NVIDIA H100 data sheet"),
        _gpu("h100-pcie", "NVIDIA H100 PCIe", 80, 2.0, (756, 1513, 1513), "pcie", "NVIDIA H100 PCIe product brief"),
        _gpu("a100", "NVIDIA A100 SXM 80 GB", 80, 2.039, (312, 0, 624), "fabric", "NVIDIA A100 data sheet"),
        _gpu("a100-40", "NVIDIA A100 SXM 40 GB", 40, 1.555, (312, 0, 624), "fabric", "NVIDIA A100 data sheet"),
        _gpu("a100-pcie", "NVIDIA A100 PCIe 80 GB", 80, 1.935, (312, 0, 624), "pcie", "NVIDIA A100 data sheet"),
        _gpu("l40s", "NVIDIA L40S", 48, 0.864, (362, 733, 733), "pcie", "NVIDIA L40S data sheet"),
        _gpu("l4", "NVIDIA L4", 24, 0.300, (121, 242, 242), "pcie", "NVIDIA L4 data sheet"),
        _gpu("a10", "NVIDIA A10", 24, 0.600, (125, 0, 250), "pcie", "NVIDIA A10 data sheet"),
        _gpu("a10g", "NVIDIA A10G", 24, 0.600, (70, 0, 140), "pcie", "NVIDIA A10G data sheet"),
        _gpu("a6000", "NVIDIA RTX A6000", 48, 0.768, (154.8, 0, 309.7), "pcie", "NVIDIA Ampere GA102 white paper"),
        _gpu("t4", "NVIDIA T4", 16, 0.320, (65, 0, 130), "pcie", "NVIDIA T4 data sheet (float16)"),
        _gpu("rtx5090", "NVIDIA RTX 5090", 32, 1.792, (209.5, 419, 838), "pcie", "NVIDIA RTX Blackwell white paper"),
        _gpu("rtx4090", "NVIDIA RTX 4090", 24, 1.008, (165.2, 330.3, 660.6), "pcie", "NVIDIA Ada white paper"),
        _gpu("rtx3090", "NVIDIA RTX 3090", 24, 0.936, (71, 0, 284), "pcie", "NVIDIA Ampere GA102 white paper"),
        _gpu("mi300x", "AMD Instinct MI300X", 192, 5.3, (1307, 2615, 2615), "fabric", "AMD Instinct MI300X data sheet"),
        _gpu("mi325x", "AMD Instinct MI325X", 256, 6.0, (1307, 2615, 2615), "fabric", "AMD Instinct MI325X data sheet"),
    )
}


def find_gpu(name: str) -> Gpu:
    """The GPU called ``name``, however it is written (``H100``, ``RTX 4090``). Raises ``PacelineError`` with those that
    are known."""
    wanted = name.lower().replace(" ", "").replace("_", "-").removeprefix("nvidia").lstrip("-")
    if wanted not in GPUS:
        raise PacelineError(f"no GPU {name!r} in the table; there are {', '.join(GPUS)}")
    return GPUS[wanted]
