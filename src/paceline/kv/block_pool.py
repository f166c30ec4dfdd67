"""Blocks of KV memory of one cache group: who holds them, what the free ones still remember, which goes next."""

from __future__ import annotations

from collections import OrderedDict


class BlockPool:
    """Reference-counted blocks ``0 .. num_blocks - 1``, with names for the prefix cache.

    A block is *held* (reference count above zero) or *free*. A free block that has a name keeps its content and can be
    found again until it is evicted; the least recently freed goes first. Blocks are handed out in the order: free
    without a name (nothing is lost, memory already touched), never used, evicted. Once ``warm_blocks`` blocks were
    used, eviction comes before touching more memory: sequences that run may grow the cache, memories of prefixes not.
    """

    __slots__ = (
        "_blocks_by_name", "_evictable", "_names", "_next_fresh", "_unnamed", "_warm_blocks", "num_blocks",
        "ref_counts",
    )  # fmt: skip

    def __init__(self, num_blocks: int, warm_blocks: int | None = None) -> None:
        assert num_blocks > 0
        self.num_blocks = num_blocks
        self._warm_blocks = num_blocks if warm_blocks is None else min(warm_blocks, num_blocks)
        self.ref_counts = [0] * num_blocks
        self._names: list[bytes | None] = [None] * num_blocks
        self._blocks_by_name: dict[bytes, int] = {}
        self._evictable: OrderedDict[int, None] = OrderedDict()  # free and named, least recently freed first
        self._unnamed: list[int] = []  # free, used before, without a name
        self._next_fresh = 0  # blocks from here on were never used

    @property
    def num_free(self) -> int:
        return len(self._unnamed) + self.num_blocks - self._next_fresh + len(self._evictable)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def allocate(self) -> int:
        """A block with one reference and no name. There must be a free one."""
        if self._unnamed:
            block = self._unnamed.pop()
        elif self._next_fresh < (self.num_blocks if not self._evictable else self._warm_blocks):
            block = self._next_fresh
            self._next_fresh += 1
        else:
            block, _ = self._evictable.popitem(last=False)
            self._forget(block)
        self.ref_counts[block] = 1
        return block

    def find(self, name: bytes) -> int | None:
        """The block of that name, held or free."""
        return self._blocks_by_name.get(name)

    def hold(self, block: int) -> None:
        """One more reference to a named block that ``find`` gave."""
        if self.ref_counts[block] == 0:
            del self._evictable[block]
        self.ref_counts[block] += 1

    def release(self, block: int) -> None:
        """One reference less. A named block that nobody holds stays findable."""
        count = self.ref_counts[block] - 1
        assert count >= 0, f"block {block} released more often than held"
        self.ref_counts[block] = count
        if count == 0:
            if self._names[block] is None:
                self._unnamed.append(block)
            else:
                self._evictable[block] = None

    def publish(self, block: int, name: bytes) -> None:
        """Names a held, full block. When two sequences computed the same block, the first stays the findable one."""
        assert self.ref_counts[block] > 0
        if name not in self._blocks_by_name:
            assert self._names[block] is None, f"block {block} is immutable and already has a name"
            self._blocks_by_name[name] = block
            self._names[block] = name

    def forget_free(self) -> None:
        """Evicts every named block that nobody holds."""
        while self._evictable:
            block, _ = self._evictable.popitem(last=False)
            self._forget(block)
            self._unnamed.append(block)

    def _forget(self, block: int) -> None:
        name = self._names[block]
        assert name is not None
        del self._blocks_by_name[name]
        self._names[block] = None

    def check_integrity(self, references: list[int]) -> None:
        """Asserts that ``references[b]`` (counted from the block tables) is what the pool believes, and that every
        block is in exactly one place."""
        assert references == self.ref_counts, "reference counts differ from the block tables"
        free = [*self._unnamed, *self._evictable, *range(self._next_fresh, self.num_blocks)]
        held = [block for block, count in enumerate(self.ref_counts) if count > 0]
        assert sorted(free + held) == list(range(self.num_blocks)), "a block is lost or in two places"
        assert all(self._names[block] is None for block in self._unnamed)
        assert all(self._names[block] is not None for block in self._evictable)
        named = {name: block for block, name in enumerate(self._names) if name is not None}
        assert named == self._blocks_by_name, "names and blocks disagree"
