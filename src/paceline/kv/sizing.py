"""How many blocks a KV cache has, and how many bytes they take."""

from __future__ import annotations

from paceline.backends.base import CacheSpec
from paceline.kv.cache import blocks_for, window_blocks


def cache_bytes(spec: CacheSpec, num_blocks: tuple[int, ...]) -> int:
    """Bytes of the whole KV cache."""
    return sum(blocks * spec.block_bytes(group) for group, blocks in enumerate(num_blocks))


def blocks_per_group(spec: CacheSpec, tokens: int, max_rows: int, max_running: int) -> tuple[int, ...]:
    """Blocks of each group for ``tokens`` cached tokens. A group with a window needs no more than the windows of all
    running sequences and one step's rows; half as much again lets it remember prefixes."""
    size = spec.block_size
    everything = blocks_for(tokens, size)

    def count(window: int) -> int:
        if not window:
            return everything
        live = max_running * (window_blocks(window, size) + 1) + blocks_for(max_rows, size)
        return min(everything, live + live // 2)

    return tuple(count(window) for window in spec.group_windows)


def blocks_within(
    spec: CacheSpec, budget: int, tokens: int, max_rows: int, max_running: int
) -> tuple[tuple[int, ...], int]:
    """Blocks of each group for as many cached tokens as ``budget`` bytes hold, ``tokens`` (in whole blocks) at most and
    one block at least; and that number of tokens."""
    low, high = 1, blocks_for(tokens, spec.block_size)
    while low < high:
        middle = (low + high + 1) // 2
        blocks = blocks_per_group(spec, middle * spec.block_size, max_rows, max_running)
        low, high = (middle, high) if cache_bytes(spec, blocks) <= budget else (low, middle - 1)
    return blocks_per_group(spec, low * spec.block_size, max_rows, max_running), low * spec.block_size
