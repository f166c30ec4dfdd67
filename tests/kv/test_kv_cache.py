"""The paged cache's bookkeeping: which block holds which tokens, and who may share it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from paceline.backends.base import CacheSpec
from paceline.kv.cache import (
    BlockTable,
    KVCache,
    block_name,
    blocks_for,
    capacity_tokens,
    root_name,
    window_blocks,
)

BLOCK = 16


def make_cache(windows: Sequence[int] = (0,), num_blocks: int = 20, **options: object) -> KVCache:
    spec = CacheSpec(1, 8, tuple(range(len(windows))), tuple(windows), BLOCK)
    return KVCache(spec, [num_blocks] * len(windows), max_sequences=4, max_tokens=256, **options)


def tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, count).astype(np.int32)


def compute(cache: KVCache, ids: np.ndarray, computed: int | None = None, adapter: str | None = None) -> BlockTable:
    """A running sequence that has computed its tokens in one step."""
    table = cache.new_table(adapter)
    cache.attach(table, ids, len(ids) - 1)
    computed = len(ids) if computed is None else computed
    assert cache.extend(table, computed)
    cache.advance(table, ids, computed)
    return table


def hit(cache: KVCache, ids: np.ndarray, adapter: str | None = None, limit: int | None = None) -> int:
    """Tokens that a new sequence finds, leaving the cache as it was."""
    table = cache.new_table(adapter)
    found = cache.attach(table, ids, len(ids) - 1 if limit is None else limit)
    cache.check_integrity([table])
    cache.free(table)
    return found


def test_full_blocks_of_a_finished_sequence_are_found_again() -> None:
    cache = make_cache()
    ids = tokens(40)
    cache.free(compute(cache, ids))
    assert hit(cache, ids) == 32
    assert hit(cache, np.concatenate((ids[:20], tokens(20, 1)))) == 16
    assert hit(cache, tokens(40, 2)) == 0


def test_a_wholly_cached_prompt_leaves_its_last_token_to_compute() -> None:
    cache = make_cache()
    ids = tokens(48)
    cache.free(compute(cache, ids))
    assert hit(cache, ids) == 32
    assert hit(cache, np.concatenate((ids, tokens(1, 1)))) == 48


def test_only_computed_tokens_are_published() -> None:
    cache = make_cache()
    ids = tokens(64)
    table = compute(cache, ids, computed=31)
    assert hit_beside(cache, ids, table) == 16
    cache.extend(table, 64)  # slots for drafts
    assert hit_beside(cache, ids, table) == 16
    cache.advance(table, ids, 33)
    assert hit_beside(cache, ids, table) == 32


def hit_beside(cache: KVCache, ids: np.ndarray, *others: BlockTable) -> int:
    table = cache.new_table()
    found = cache.attach(table, ids, len(ids) - 1)
    cache.check_integrity([table, *others])
    cache.free(table)
    return found


def test_adapters_never_share_blocks() -> None:
    cache = make_cache()
    ids = tokens(40)
    cache.free(compute(cache, ids, adapter="a"))
    assert hit(cache, ids, adapter="a") == 32
    assert hit(cache, ids, adapter="b") == 0
    assert hit(cache, ids) == 0


def test_a_block_is_named_by_everything_before_it() -> None:
    cache = make_cache()
    ids = tokens(48)
    cache.free(compute(cache, ids))
    other = ids.copy()
    other[0] += 1
    assert hit(cache, other) == 0


def test_running_sequences_share_full_blocks_and_keep_partial_ones_private() -> None:
    cache = make_cache()
    ids = tokens(40)
    first = compute(cache, ids)
    second = compute(cache, ids)
    assert first.blocks[0][:2] == second.blocks[0][:2]
    assert first.blocks[0][2] != second.blocks[0][2]
    assert cache.num_used_blocks == 4
    cache.check_integrity([first, second])
    cache.free(first)
    assert cache.num_used_blocks == 3
    cache.check_integrity([second])


def test_the_prefix_cache_can_be_switched_off() -> None:
    cache = make_cache(prefix_cache=False)
    ids = tokens(40)
    cache.free(compute(cache, ids))
    assert hit(cache, ids) == 0


def test_extend_changes_nothing_when_blocks_run_out() -> None:
    cache = make_cache(num_blocks=3)
    table = compute(cache, tokens(40))
    assert not cache.extend(table, 49)
    assert table.num_blocks == 3
    cache.check_integrity([table])


def test_freed_blocks_of_another_sequence_are_evicted_from_the_end() -> None:
    cache = make_cache(num_blocks=4)
    ids = tokens(64)
    cache.free(compute(cache, ids))
    other = compute(cache, tokens(20, 1))
    assert hit_beside(cache, ids, other) == 32
    cache.free(other)


def test_a_sliding_window_gives_back_blocks_that_no_later_row_sees() -> None:
    cache = make_cache(windows=(0, 20))
    ids = tokens(100)
    table = compute(cache, ids[:35])
    assert table.released == [0, 1]  # the row at 35 sees 16..35
    cache.extend(table, 36)
    cache.advance(table, ids, 36)
    assert table.released == [0, 1]
    cache.extend(table, 64)
    cache.advance(table, ids, 64)
    assert table.released == [0, 2]
    assert cache.tables[1, table.row, :4].tolist()[:2] == [-1, -1]
    assert (cache.tables[0, table.row, :4] >= 0).all()
    cache.check_integrity([table])


def test_a_prefix_hit_needs_only_the_windows_blocks() -> None:
    cache = make_cache(windows=(20,), num_blocks=8)
    ids = tokens(100)
    cache.free(compute(cache, ids))
    other = compute(cache, tokens(20, 1))  # takes the untouched block and the oldest one, out of the window
    table = cache.new_table()
    assert cache.attach(table, ids, 99) == 96
    assert table.blocks[0][:4] == [-1] * 4 and min(table.blocks[0][4:]) >= 0
    cache.check_integrity([table, other])


def test_a_prefix_hit_falls_back_to_where_every_group_has_its_blocks() -> None:
    cache = make_cache(windows=(0, 16), num_blocks=8)
    ids = tokens(97)
    cache.free(compute(cache, ids))
    pool, chain = cache.pools[1], names(ids)
    for name in chain[:5]:  # used again, so the last block is the oldest
        block = pool.find(name)
        assert block is not None
        pool.hold(block)
        pool.release(block)
    while pool.find(chain[5]) is not None:
        pool.allocate()
    assert cache.pools[0].find(chain[5]) is not None
    assert cache.attach(cache.new_table(), ids, 96) == 80


def names(ids: np.ndarray) -> list[bytes]:
    parent, found = root_name(None), []
    for start in range(0, len(ids) // BLOCK * BLOCK, BLOCK):
        parent = block_name(parent, ids[start : start + BLOCK])
        found.append(parent)
    return found


def test_block_names_are_the_same_in_every_process() -> None:
    code = (
        "import numpy as np; from paceline.kv.cache import block_name, root_name;"
        "print(block_name(root_name('a'), np.arange(16, dtype=np.int32)).hex())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert runs == {block_name(root_name("a"), np.arange(16, dtype=np.int32)).hex() + "\n"}


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 18, 33, 64])
def test_window_blocks_is_the_most_that_one_row_touches(window: int) -> None:
    spans = {row // BLOCK - max(0, row - window + 1) // BLOCK + 1 for row in range(400)}
    assert window_blocks(window, BLOCK) == max(spans)


def test_capacity_is_set_by_the_groups_that_keep_everything() -> None:
    spec = CacheSpec(1, 8, (0, 1), (0, 20), BLOCK)
    assert capacity_tokens(spec, (10, 5)) == 160
    assert capacity_tokens(spec, (10, 2)) == 32
    assert capacity_tokens(CacheSpec(1, 8, (0,), (20,), BLOCK), (5,)) > 10**9
    assert blocks_for(0, BLOCK) == 0 and blocks_for(16, BLOCK) == 1 and blocks_for(17, BLOCK) == 2


def test_integrity_check_finds_a_leaked_block() -> None:
    cache = make_cache()
    table = compute(cache, tokens(40))
    cache.pools[0].ref_counts[table.blocks[0][0]] += 1
    with pytest.raises(AssertionError, match="reference counts"):
        cache.check_integrity([table])


def test_lookups_count_tokens() -> None:
    cache = make_cache()
    cache.record_lookup(40, 32)
    cache.record_lookup(10, 0)
    assert (cache.queries, cache.hits) == (50, 32)
