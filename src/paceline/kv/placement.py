"""Where the rows of a step go in the cache."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from paceline.backends.base import IntArray
from paceline.kv.cache import KVCache


class Placer:
    """Slots of rows in a cache, by array arithmetic; ``max_rows``: most rows of a step."""

    def __init__(self, cache: KVCache, max_rows: int) -> None:
        self.cache = cache
        self._count: IntArray = np.arange(max_rows, dtype=np.int32)

    def place(
        self, row_starts: IntArray, context_lens: IntArray, table_rows: Seq[int], longest: int
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Place of each row in its sequence ``[T]``, slots ``[G, T]`` and block tables ``[G, S, B]`` of a step.

        ``row_starts [S + 1]`` and ``context_lens [S]`` as in ``Batch``; ``table_rows``: each sequence's row in
        ``KVCache.tables``; ``longest``: tokens of the longest of them, the step's included.
        """
        size = self.cache.block_size
        width = (longest - 1) // size + 1
        if len(table_rows) == 1:
            row = table_rows[0]
            tables = self.cache.tables[:, row : row + 1, :width].copy()
            places = self._count[: row_starts[1]] + context_lens[0]
            blocks = tables[:, 0, places // size]
        else:
            tables = np.ascontiguousarray(self.cache.tables[:, table_rows, :width])
            if row_starts[-1] == len(table_rows):
                owners, places = self._count[: len(table_rows)], context_lens.copy()
            else:
                counts = np.diff(row_starts)
                owners = np.repeat(self._count[: len(table_rows)], counts)
                places = self._count[: row_starts[-1]] + np.repeat(context_lens - row_starts[:-1], counts)
            blocks = tables[:, owners, places // size]
        return places, np.ascontiguousarray(blocks * size + places % size), tables
