"""The machine that the plan is made on, as something to plan for."""

from __future__ import annotations

from paceline.backends.registry import get_backend
from paceline.bench.plan.devices import GIB, Gpu
from paceline.bench.plan.machines import Machine, cpu_machine, measured_gpu
from paceline.bench.roofline.ceilings import open_meter
from paceline.bench.roofline.device import cuda_ceilings
from paceline.bench.roofline.inventory import multiplies_bf16
from paceline.engine.machine import free_memory, usable_cores
from paceline.errors import PacelineError

SAMPLES = 3


def this_cpu(threads: int | None = None) -> tuple[Machine, bool]:
    """This machine's cores with their ceilings, measured in a second or two, and the memory that is free; and whether
    the native kernels multiply bfloat16 as it is. Rates are those of the engine's own products, since it is the engine
    that is planned. Raises ``PacelineError`` where the native backend does not run."""
    threads = threads or usable_cores()
    try:
        backend = get_backend("cpu", threads=threads)
    except PacelineError as error:
        raise PacelineError(
            f"a plan for a CPU is one for the native backend: {error}; name a GPU with --gpu"
        ) from error
    meter = open_meter(threads, ("q4", "q8", "bf16", "f32"))
    meter.sample()  # the first one finds sleeping threads and a slow clock
    meter.clear()
    for _ in range(SAMPLES):
        meter.sample()
    bf16 = multiplies_bf16(backend)
    return cpu_machine(threads, free_memory(), meter.ceilings, bf16), bf16


def this_gpu(count: int = 1) -> tuple[Machine, Gpu]:
    """The GPU of this machine, measured; and the same as an entry of the table. Raises ``PacelineError`` where there is
    none."""
    name, memory, ceilings = cuda_ceilings()
    gpu = Gpu("here", name, memory // GIB * GIB, ceilings.bandwidth, ceilings.rates, "pcie", "measured just now")
    return measured_gpu(gpu, count), gpu
