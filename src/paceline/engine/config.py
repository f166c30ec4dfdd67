"""The engine's settings: what the user wished, and what was chosen for the rest, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from paceline.backends.base import CacheDtype, CacheSpec
from paceline.engine.messages import Choice
from paceline.errors import InvalidRequestError
from paceline.kv.cache import capacity_tokens
from paceline.kv.sizing import blocks_within
from paceline.speculation.options import SpeculationOptions

MAX_ROWS = 512
MAX_RUNNING = 32
MAX_QUEUE = 256
DRAFT_ROWS = 64  # least rows of a step for draft tokens
DRAFT_ROWS_PER_SEQUENCE = 4  # more only helps where nobody is short of rows, and then few sequences run
MEMORY_SHARE = 0.25  # of the free memory, for the KV cache
TOKENS_PER_SEQUENCE = 1024  # generous length for which the cache is sized
WARM_BYTES = 192 * 2**20  # least memory for remembered prefixes
WARM_SHARE = 2  # of the weights' size, for remembered prefixes


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Wishes; None: chosen for the model and the machine."""

    context_length: int | None = None  # most tokens of one sequence, prompt and output
    kv_cache_bytes: int | None = None  # memory of the KV cache
    kv_blocks: int | None = None  # blocks in every cache group; overrides kv_cache_bytes
    max_rows: int | None = None  # most rows (tokens) of one step
    max_running: int | None = None  # most sequences in one step
    max_queue: int | None = None  # most waiting sequences before new requests are refused
    threads: int | None = None  # compute threads
    kv_cache_dtype: CacheDtype | None = None
    prefix_cache: bool = True
    max_adapters: int | None = None  # most different adapters in one step; None: as many as the backend can
    adapter_cache_bytes: int | None = None  # host memory for copies of adapters that are in no slot
    speculation: SpeculationOptions = field(default_factory=SpeculationOptions)


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """What the engine runs with."""

    context_length: int
    num_blocks: tuple[int, ...]  # per cache group
    warm_blocks: tuple[int, ...]  # of them, those that remembered prefixes may fill
    max_rows: int  # of known tokens
    max_draft_rows: int  # behind these, of draft tokens
    max_running: int
    max_queue: int
    threads: int
    prefix_cache: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """What may be used: bytes of free memory (of the device that holds the cache) and cores."""

    free_bytes: int
    cores: int


def resolve(
    config: EngineConfig, spec: CacheSpec, model_context: int, machine: Machine, weights_bytes: int = 0
) -> tuple[ResolvedConfig, list[Choice]]:
    """Chooses what the user left open. ``model_context``: the longest context that the model supports, in tokens;
    ``weights_bytes``: the size of its weights.

    Raises ``InvalidRequestError`` naming a setting that cannot be met, its value and the limit.
    """
    _check(config, spec, model_context)
    config.speculation.validate()
    choices: list[Choice] = []

    def choose(name: str, wish: int | None, value: int, reason: str) -> int:
        chosen, why = (value, reason) if wish is None else (wish, "as configured")
        choices.append(Choice(name, str(chosen), why))
        return chosen

    threads = choose("threads", config.threads, machine.cores, f"{machine.cores} usable cores")
    max_rows = choose("max_rows", config.max_rows, MAX_ROWS, "rows of one step: long prompts are computed in chunks")
    max_running = choose(
        "max_running", config.max_running, min(MAX_RUNNING, max_rows), "sequences that share a step, one row each"
    )
    max_queue = choose("max_queue", config.max_queue, MAX_QUEUE, "waiting sequences before requests are refused")
    wanted = config.context_length or model_context
    num_blocks, memory_reason = _choose_blocks(config, spec, wanted, max_rows, max_running, machine)
    context = min(wanted, capacity_tokens(spec, num_blocks))
    choices.append(Choice("context_length", f"{context} tokens", _context_reason(config, context, model_context)))
    size = sum(blocks * spec.block_bytes(group) for group, blocks in enumerate(num_blocks))
    tokens = max(num_blocks) * spec.block_size
    choices.append(Choice("kv_cache", f"{tokens} tokens, {size / 2**20:.0f} MiB {spec.dtype}", memory_reason))
    # Nobody is served by a small model's process that grows to many times its size with prefixes that may never return.
    # A wish for a size is a wish to use it.
    warm = max(WARM_BYTES, WARM_SHARE * weights_bytes)
    share = 1.0 if config.kv_cache_bytes or config.kv_blocks else min(1.0, warm / size)
    if config.prefix_cache and share < 1.0:
        reason = "most that prefixes of finished requests may keep; running requests may use all of the cache"
        choices.append(Choice("prefix_cache", f"{warm / 2**20:.0f} MiB", reason))
    return ResolvedConfig(
        context_length=context,
        num_blocks=num_blocks,
        warm_blocks=tuple(max(1, int(blocks * share)) for blocks in num_blocks),
        max_rows=max_rows,
        max_draft_rows=max(DRAFT_ROWS, DRAFT_ROWS_PER_SEQUENCE * max_running),
        max_running=min(max_running, max_rows),
        max_queue=max_queue,
        threads=threads,
        prefix_cache=config.prefix_cache,
    ), choices


def _choose_blocks(
    config: EngineConfig, spec: CacheSpec, context: int, max_rows: int, max_running: int, machine: Machine
) -> tuple[tuple[int, ...], str]:
    if config.kv_blocks is not None:
        return (config.kv_blocks,) * spec.num_groups, "as configured"
    enough = max(context, TOKENS_PER_SEQUENCE * max_running)
    budget = config.kv_cache_bytes
    if budget is None:
        budget = int(machine.free_bytes * MEMORY_SHARE)
        limited = f"{MEMORY_SHARE:.0%} of {machine.free_bytes / 2**20:.0f} MiB free memory"
    else:
        limited = "as configured"
        enough = 2**31 - spec.block_size
    blocks, tokens = blocks_within(spec, budget, enough, max_rows, max_running)
    if tokens >= enough:
        return blocks, f"enough for {max_running} sequences; only blocks in use take memory"
    return blocks, limited


def _context_reason(config: EngineConfig, context: int, model_context: int) -> str:
    if context < (config.context_length or model_context):
        return "what the KV cache holds"
    return "as configured" if config.context_length is not None else "the model's own"


def _check(config: EngineConfig, spec: CacheSpec, model_context: int) -> None:
    for name in (
        "context_length",
        "kv_cache_bytes",
        "kv_blocks",
        "max_rows",
        "max_running",
        "max_queue",
        "threads",
        "max_adapters",
    ):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InvalidRequestError(f"{name} must be at least 1, got {value}", param=name)
    if config.adapter_cache_bytes is not None and config.adapter_cache_bytes < 0:
        raise InvalidRequestError(
            f"adapter_cache_bytes must be at least 0, got {config.adapter_cache_bytes}", param="adapter_cache_bytes"
        )
    if config.context_length is not None and config.context_length > model_context:
        raise InvalidRequestError(
            f"context_length {config.context_length} is above what the model supports: {model_context} tokens",
            param="context_length",
        )
    least = sum(spec.block_bytes(group) for group in range(spec.num_groups))
    if config.kv_cache_bytes is not None and config.kv_cache_bytes < least:
        raise InvalidRequestError(
            f"kv_cache_bytes {config.kv_cache_bytes} is less than one block of {spec.block_size} tokens: {least} bytes",
            param="kv_cache_bytes",
        )
