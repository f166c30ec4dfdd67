"""What fits into a machine's memory, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.bench.plan.machines import Machine
from paceline.bench.plan.sizes import Format, weight_bytes
from paceline.bench.roofline.model_work import Attention
from paceline.models.spec import ModelSpec

BLOCK = 16  # tokens of a cache block: a sequence's last one is half empty on the mean, and paid for whole
WORKSPACE = 512 << 20  # of a GPU: libraries, graphs of kernels


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a machine's memory by what they are for. ``tokens``: of one long sequence that the room for the cache
    holds; ``sequences``: of the asked length that it holds together."""

    memory: float
    weights: float
    activations: float
    sequence_bytes: float
    tokens: int
    sequences: int

    @property
    def cache(self) -> float:
        """Bytes for keys and values."""
        return max(0.0, self.memory - self.weights - self.activations)

    @property
    def missing(self) -> float:
        """Bytes that weights, activations and one sequence lack."""
        return max(0.0, self.weights + self.activations + self.sequence_bytes - self.memory)

    @property
    def fits(self) -> bool:
        return self.sequences >= 1


def cache_attention(spec: ModelSpec, machine: Machine) -> Attention:
    """Attention as the cache sees it: devices that are more than the key-value heads each keep a copy of theirs."""
    kv_heads = (
        max(1, -(-spec.num_kv_heads // machine.count)) * machine.count if machine.count > 1 else spec.num_kv_heads
    )
    windows = tuple(layer.window for layer in spec.layers)
    return Attention(spec.num_heads, kv_heads, spec.head_dim, windows, machine.cache_item, machine.attention_arithmetic)


def activation_bytes(spec: ModelSpec, machine: Machine) -> float:
    """Most that a step needs besides weights and cache: rows of the widest layer in float32, logits of all sequences,
    and a GPU's workspace."""
    widths = [
        layer.moe.top_k * layer.moe.intermediate_size if layer.moe else spec.intermediate_size for layer in spec.layers
    ]
    row = 4 * (4 * spec.hidden_size + spec.q_size + 2 * spec.kv_size + 2 * max(widths))
    logits = 4 * machine.max_running * spec.vocab_size
    workspace = WORKSPACE * machine.count if machine.link else 0
    return machine.chunk * row + logits + workspace


def room(spec: ModelSpec, form: Format, machine: Machine, length: int) -> Room:
    """The room for sequences of ``length`` tokens."""
    attention = cache_attention(spec, machine)
    weights, activations = weight_bytes(spec, form), activation_bytes(spec, machine)
    cache = max(0.0, machine.memory - weights - activations)
    one = attention.cache_bytes(-(-length // BLOCK) * BLOCK)
    return Room(machine.memory, weights, activations, one, tokens_within(attention, cache), int(cache // one))


def tokens_within(attention: Attention, cache: float) -> int:
    """The longest sequence whose keys and values are at most ``cache`` bytes; windowed layers stop growing."""
    if not any(window == 0 for window in attention.windows):
        full = attention.cache_bytes(max(attention.windows))
        if full <= cache:
            return 2**31 - 1
    low, high = 0, int(cache // attention.key_bytes) + 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if attention.cache_bytes(middle) <= cache else (low, middle - 1)
    return low
