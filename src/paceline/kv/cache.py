"""The paged KV cache as bookkeeping: which block holds which tokens of which sequence.

No tensors here: the backend owns the memory, this module decides where each token goes. A full block is immutable and,
once its tokens are accepted, may be shared through the prefix cache; the last, partial block belongs to one sequence
only, so nothing is ever copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from paceline.backends.base import CacheSpec, IntArray
from paceline.kv.block_pool import BlockPool

NAME_BYTES = 16


def root_name(adapter: str | None) -> bytes:
    """The parent of a prompt's first block: sequences of different adapters never share."""
    return blake2b(b"base" if adapter is None else b"adapter:" + adapter.encode(), digest_size=NAME_BYTES).digest()


def block_name(parent: bytes, token_ids: IntArray) -> bytes:
    """Name of a full block of tokens (int32 ``[block_size]``) that follows ``parent``; the same in every process."""
    return blake2b(parent + token_ids.tobytes(), digest_size=NAME_BYTES).digest()


def blocks_for(num_tokens: int, block_size: int) -> int:
    """Blocks that hold ``num_tokens`` tokens."""
    return -(-num_tokens // block_size)


def window_blocks(window: int, block_size: int) -> int:
    """The most blocks a sliding window touches while one row is computed: ``window`` keys, the row's own included."""
    return (window + block_size - 2) // block_size + 1


def capacity_tokens(spec: CacheSpec, num_blocks: Sequence[int]) -> int:
    """Tokens of the longest sequence that the cache holds when it is alone; large when every group has a window."""
    capacity = 2**31 - 1
    for window, blocks in zip(spec.group_windows, num_blocks, strict=True):
        if not window or blocks < window_blocks(window, spec.block_size):
            capacity = min(capacity, blocks * spec.block_size)
    return capacity


class BlockTable:
    """The blocks of one sequence, for every group. Made once a sequence; empty while it waits.

    ``blocks[g][i]`` holds tokens ``i * block_size ..`` in group ``g``'s numbering, -1 where the group's window has
    passed. ``row`` is the sequence's row in ``KVCache.tables`` (-1 while it waits).
    """

    __slots__ = ("adapter", "blocks", "names", "num_blocks", "num_published", "released", "row")

    def __init__(self, num_groups: int, adapter: str | None = None) -> None:
        self.adapter = adapter
        self.row = -1
        self.num_blocks = 0
        self.num_published = 0
        self.names: list[bytes] = []  # of the leading full blocks; kept over a preemption
        self.blocks: list[list[int]] = [[] for _ in range(num_groups)]
        self.released = [0] * num_groups  # leading blocks given back, or never held


class KVCache:
    """Block tables of the running sequences, the pools behind them and the prefix cache.

    ``tables`` is int32 ``[groups, max_sequences, max_blocks]``, kept up to date block by block, so that building a step
    is array indexing only. Counters: ``queries`` and ``hits`` in tokens.
    """

    def __init__(
        self,
        spec: CacheSpec,
        num_blocks: Sequence[int],
        max_sequences: int,
        max_tokens: int,
        prefix_cache: bool = True,
        warm_blocks: Sequence[int] | None = None,  # per group, see BlockPool
    ) -> None:
        self.spec = spec
        self.block_size = spec.block_size
        self.max_tokens = max_tokens
        self.prefix_cache = prefix_cache
        self.pools = [BlockPool(*counts) for counts in zip(num_blocks, warm_blocks or num_blocks, strict=True)]
        self.tables: IntArray = np.full(
            (spec.num_groups, max_sequences, blocks_for(max_tokens, spec.block_size)), -1, dtype=np.int32
        )
        self.queries = 0
        self.hits = 0
        self._free_rows = list(range(max_sequences - 1, -1, -1))
        self._windows = [(group, window) for group, window in enumerate(spec.group_windows) if window]

    @property
    def num_blocks(self) -> int:
        return sum(pool.num_blocks for pool in self.pools)

    @property
    def num_used_blocks(self) -> int:
        return sum(pool.num_used for pool in self.pools)

    def new_table(self, adapter: str | None = None) -> BlockTable:
        return BlockTable(self.spec.num_groups, adapter)

    def attach(self, table: BlockTable, token_ids: IntArray, limit: int) -> int:
        """Gives an empty table a row and the longest cached prefix of ``token_ids`` of at most ``limit`` tokens.

        Returns the number of cached tokens, a multiple of the block size.
        """
        assert table.row < 0 and table.num_blocks == 0
        table.row = self._free_rows.pop()
        count = self._match(table, token_ids, limit // self.block_size) if self.prefix_cache else 0
        for group, pool in enumerate(self.pools):
            first = self._first_needed(group, count * self.block_size)
            blocks = [-1] * first
            for name in table.names[first:count]:
                block = pool.find(name)
                assert block is not None
                pool.hold(block)
                blocks.append(block)
            table.blocks[group] = blocks
            table.released[group] = first
            self.tables[group, table.row, :count] = blocks
        table.num_blocks = table.num_published = count
        return count * self.block_size

    def record_lookup(self, queried: int, found: int) -> None:
        """Counts a lookup, in tokens. Apart from ``attach``, which may be tried several times for one sequence."""
        self.queries += queried
        self.hits += found

    def extend(self, table: BlockTable, num_tokens: int) -> bool:
        """Makes slots for the first ``num_tokens`` tokens; False, and nothing changed, when blocks run out."""
        missing = blocks_for(num_tokens, self.block_size) - table.num_blocks
        if missing <= 0:
            return True
        if any(pool.num_free < missing for pool in self.pools):
            return False
        start = table.num_blocks
        for group, pool in enumerate(self.pools):
            new = [pool.allocate() for _ in range(missing)]
            table.blocks[group] += new
            self.tables[group, table.row, start : start + missing] = new
        table.num_blocks += missing
        return True

    def room(self, table: BlockTable) -> int:
        """Tokens that ``extend`` can reach now."""
        return (table.num_blocks + min(pool.num_free for pool in self.pools)) * self.block_size

    def shortage(self, table: BlockTable, num_tokens: int, reserve: int = 0) -> int:
        """Blocks that the neediest group lacks to run the sequence up to ``num_tokens`` and keep ``reserve`` free."""
        worst = 0
        missing = blocks_for(num_tokens, self.block_size) - table.num_blocks
        for pool, window in zip(self.pools, self.spec.group_windows, strict=True):
            needed = min(missing, window_blocks(window, self.block_size)) if window else missing
            worst = max(worst, needed + reserve - pool.num_free)
        return worst

    def advance(self, table: BlockTable, token_ids: IntArray, computed: int) -> None:
        """After a step: the first ``computed`` tokens are accepted and in the cache. Publishes the blocks they fill
        and gives back those that every later row's window has passed."""
        full = computed // self.block_size
        if full > table.num_published:
            if self.prefix_cache:
                self._publish(table, token_ids, full)
            table.num_published = full
        for group, _ in self._windows:
            first = self._first_needed(group, computed)
            released = table.released[group]
            if first > released:
                self._release(table, group, released, first)

    def free(self, table: BlockTable) -> None:
        """Gives everything back. Leading blocks stay findable longest: a prefix is worth more than its end."""
        for group, pool in enumerate(self.pools):
            for block in reversed(table.blocks[group][table.released[group] :]):
                pool.release(block)
            table.blocks[group] = []
            table.released[group] = 0
        self.tables[:, table.row, : table.num_blocks] = -1
        self._free_rows.append(table.row)
        table.row = -1
        table.num_blocks = table.num_published = 0

    def clear_prefix_cache(self) -> None:
        """Forgets every block that no sequence holds."""
        for pool in self.pools:
            pool.forget_free()

    def check_integrity(self, tables: Iterable[BlockTable]) -> None:
        """Asserts that tables, reference counts, free lists and names agree; ``tables``: all sequences' tables."""
        references = [[0] * pool.num_blocks for pool in self.pools]
        rows = list(self._free_rows)
        for table in tables:
            if table.row < 0:
                assert table.num_blocks == 0 and not any(table.blocks)
                continue
            rows.append(table.row)
            for group, blocks in enumerate(table.blocks):
                assert len(blocks) == table.num_blocks
                assert self.tables[group, table.row, : table.num_blocks].tolist() == blocks
                assert (self.tables[group, table.row, table.num_blocks :] == -1).all()
                assert all((block < 0) == (i < table.released[group]) for i, block in enumerate(blocks))
                for block in blocks[table.released[group] :]:
                    references[group][block] += 1
        assert sorted(rows) == list(range(self.tables.shape[1])), "a table row is lost or used twice"
        for pool, counts in zip(self.pools, references, strict=True):
            pool.check_integrity(counts)

    def _first_needed(self, group: int, computed: int) -> int:
        """First block that a row at position ``computed`` or later can see in ``group``."""
        window = self.spec.group_windows[group]
        return max(0, computed - window + 1) // self.block_size if window else 0

    def _name_blocks(self, table: BlockTable, token_ids: IntArray, count: int) -> None:
        names = table.names
        parent = names[-1] if names else root_name(table.adapter)
        for index in range(len(names), count):
            start = index * self.block_size
            parent = block_name(parent, token_ids[start : start + self.block_size])
            names.append(parent)

    def _match(self, table: BlockTable, token_ids: IntArray, limit: int) -> int:
        """Largest count of leading blocks, at most ``limit``, for which every group has what later rows can see."""
        self._name_blocks(table, token_ids, limit)
        count = limit
        for pool, window in zip(self.pools, self.spec.group_windows, strict=True):
            if not window:
                count = next((i for i in range(count) if pool.find(table.names[i]) is None), count)
        runs = [self._runs(group, table.names[:count]) for group, _ in self._windows]
        while count > 0:
            needed = ((count - self._first_needed(group, count * self.block_size)) for group, _ in self._windows)
            if all(run[count] >= need for run, need in zip(runs, needed, strict=True)):
                break
            count -= 1
        return count

    def _runs(self, group: int, names: list[bytes]) -> list[int]:
        """For each count ``i``: how many consecutive blocks ending with block ``i - 1`` are cached."""
        pool = self.pools[group]
        runs = [0]
        for name in names:
            runs.append(0 if pool.find(name) is None else runs[-1] + 1)
        return runs

    def _publish(self, table: BlockTable, token_ids: IntArray, full: int) -> None:
        self._name_blocks(table, token_ids, full)
        for group, pool in enumerate(self.pools):
            blocks = table.blocks[group]
            for index in range(table.num_published, full):
                if blocks[index] >= 0:
                    pool.publish(blocks[index], table.names[index])

    def _release(self, table: BlockTable, group: int, start: int, stop: int) -> None:
        pool, blocks = self.pools[group], table.blocks[group]
        for index in range(start, stop):
            pool.release(blocks[index])
            blocks[index] = -1
        self.tables[group, table.row, start:stop] = -1
        table.released[group] = stop
