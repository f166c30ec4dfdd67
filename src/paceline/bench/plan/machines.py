"""The machine of a plan: its memory, its ceilings, and how much of them steps reach.

The efficiencies are what separates a plan from a boast, so each has its reason:

* GPUs, memory 0.85 / 0.75 / 0.65 of the data sheet for weights of 16 / 8 / 4 bits, and 60 µs a layer for kernels that
  are too small to fill the chip. Fitted to the single-stream speeds that gpt-fast publishes for Llama 2 on A100s (7B
  and 70B; bf16, int8, int4; 1 to 8 GPUs); ``tests/bench/plan`` holds the model against that table.
* GPUs, arithmetic 0.5 of the data sheet: prefills and large batches. An assumption.
* A GPU that was measured: the same, divided by what a copy (0.83) and a product of large matrices (0.7) usually reach
  of the data sheet.
* Several GPUs: 0.95 of their sum over a fabric of their own (the same table), 0.75 over PCIe (an assumption).
* CPUs: of ceilings that were measured a moment before, the rates being those of the engine's own products of many
  rows. Fitted to ``paceline bench step`` on the default model (Zen 4, 2 threads, a quiet hour): decode steps of 1 to 16
  rows behind 128 and 1024 tokens and prompts of 128, 350 and 1024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from paceline.bench.plan.devices import Gpu
from paceline.bench.roofline.work import Ceilings, Work
from paceline.errors import PacelineError


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the ceilings that steps reach, and what they cost besides. ``memory``: reading weights, by their bits,
    widest first: (at least so many bits, share); ``cache``: reading keys and values. ``products``, ``attention``: of
    the multiply rates. ``overlap``: how much of the shorter of reading and calculating hides behind the longer."""

    memory: tuple[tuple[float, float], ...]
    cache: float
    products: float
    attention: float
    overlap: float
    layer_seconds: float  # of each layer of a step, whatever is in it
    number_seconds: float  # of each number of the residual stream of each row and layer: norms, rounding, sampling

    def memory_share(self, bits: float) -> float:
        """For weights of ``bits`` bits."""
        return next((share for least, share in self.memory if bits >= least), self.memory[-1][1])

    def together(self, reading: float, calculating: float) -> float:
        """Seconds of work that reads and calculates for so long."""
        return max(reading, calculating) + (1 - self.overlap) * min(reading, calculating)


GPU = Efficiency(
    memory=((16, 0.85), (8, 0.75), (0, 0.65)), cache=0.85, products=0.5, attention=0.5, overlap=1.0,
    layer_seconds=60e-6, number_seconds=0.0,
)  # fmt: skip
GPU_MEASURED = replace(GPU, memory=((16, 1.0), (8, 0.9), (0, 0.78)), cache=1.0, products=0.7, attention=0.7)
CPU = Efficiency(
    memory=((0, 0.95),), cache=0.55, products=0.88, attention=0.5, overlap=0.8, layer_seconds=30e-6, number_seconds=3e-9
)  # number_seconds: of one thread
PARALLEL = {"fabric": 0.95, "pcie": 0.75}
GPU_CHUNK, CPU_CHUNK = 2048, 512  # rows of a step that prompts may take
GPU_RUNNING, CPU_RUNNING = 256, 32  # sequences that serving engines let run together by default
MEMORY_USED = 0.9  # of the device: the rest is for the driver, the runtime and surprises


@dataclass(frozen=True, slots=True)
class Machine:
    """``memory``: bytes for weights, activations and cache; ``ceilings`` and ``count``: of all its devices together.
    ``speed``: the share of the sum that they reach together."""

    title: str
    memory: int
    ceilings: Ceilings
    efficiency: Efficiency
    chunk: int
    max_running: int
    attention_arithmetic: str
    cache_item: float
    source: str
    count: int = 1
    speed: float = 1.0
    link: str = ""

    def seconds(self, products: Work, attention: Work, bits: float, layers: int, numbers: int) -> float:
        """Of a step: its products, then its attention, and what its ``layers`` and its ``numbers`` cost besides (those
        of the residual stream: rows x width x layers)."""
        own, of = self.efficiency, self.ceilings
        busy = own.together(
            of.memory_seconds(products) / own.memory_share(bits), of.arithmetic_seconds(products) / own.products
        )
        busy += own.together(of.memory_seconds(attention) / own.cache, of.arithmetic_seconds(attention) / own.attention)
        return busy / self.speed + layers * own.layer_seconds + numbers * own.number_seconds


def gpu_machine(gpu: Gpu, count: int = 1) -> Machine:
    """``count`` GPUs that share every layer (tensor parallelism)."""
    rates = {name: rate * count for name, rate in gpu.rates.items()}
    title = gpu.title if count == 1 else f"{count} x {gpu.title}"
    return Machine(
        title=title,
        memory=int(gpu.memory * MEMORY_USED) * count,
        ceilings=Ceilings(gpu.bandwidth * count, rates),
        efficiency=GPU,
        chunk=GPU_CHUNK,
        max_running=GPU_RUNNING,
        attention_arithmetic="bf16",
        cache_item=2,
        source=gpu.source,
        count=count,
        speed=PARALLEL[gpu.link] if count > 1 else 1.0,
        link=gpu.link,
    )


def measured_gpu(gpu: Gpu, count: int = 1) -> Machine:
    """``gpu_machine`` of a GPU whose figures were measured."""
    return replace(gpu_machine(gpu, count), efficiency=GPU_MEASURED)


def cpu_machine(threads: int, free: int, ceilings: Ceilings, bf16: bool) -> Machine:
    """This machine's cores, with ``free`` bytes of memory and measured ceilings. ``bf16``: whether its kernels multiply
    bfloat16, as attention then does."""
    return Machine(
        title=f"this machine, {threads} threads",
        memory=int(free * MEMORY_USED),
        ceilings=ceilings,
        efficiency=replace(CPU, number_seconds=CPU.number_seconds / threads),
        chunk=CPU_CHUNK,
        max_running=CPU_RUNNING,
        attention_arithmetic="bf16" if bf16 else "f32",
        cache_item=2,
        source="measured just now",
    )


def check_parallel(count: int, heads: int) -> None:
    """Raises ``PacelineError`` where ``heads`` cannot be shared evenly."""
    if heads % count:
        raise PacelineError(
            f"--tensor-parallel {count} does not divide the model's {heads} attention heads; choose a number that does"
        )
