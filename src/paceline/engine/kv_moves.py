"""Moves the keys and values of an accepted tree path to where the text goes, so that they are not computed again."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from paceline.backends.base import Backend
from paceline.engine.sequence import Sequence
from paceline.kv.cache import KVCache


class PathMoves:
    """The moves of one step. A row of a token tree is rotated for its depth, and its sums are those of a chain: moved
    to the slot of its depth, its keys and values are bit for bit those that computing it there would give."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._rows: list[int] = []  # of the block tables, a move each
        self._sources: list[int] = []  # places in the sequence
        self._targets: list[int] = []

    def add(self, sequence: Sequence, path: Seq[int]) -> None:
        """Notes what it takes to keep a verified ``path`` (see ``Verified``) of a planned sequence: nothing where it is
        a leading run of the draft, as a chain's always is."""
        last_known = sequence.computed + sequence.rows - 1  # place of the row that path[0] stands for
        for depth, row in enumerate(path):
            if row != depth:
                self._rows.append(sequence.table.row)
                self._sources.append(last_known + row)
                self._targets.append(last_known + depth)

    def run(self, backend: Backend) -> None:
        """Moves keys and values, in all groups, of all sequences in one call."""
        if self._rows:
            backend.move(self._slots(self._sources), self._slots(self._targets))

    def _slots(self, places: list[int]) -> np.ndarray:
        """Slots int32 ``[G, moves]``."""
        size, where = self._cache.block_size, np.array(places, dtype=np.int32)
        blocks = self._cache.tables[:, self._rows, where // size]
        assert (blocks >= 0).all(), "rows of the step lie in blocks that their sequences hold"
        return np.ascontiguousarray(blocks * np.int32(size) + where % np.int32(size))
