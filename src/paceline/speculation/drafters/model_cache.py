"""What a draft model has computed of which sequence, and who gives way when its blocks run out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from collections.abc import Sequence as Seq

from paceline.kv.cache import BlockTable, KVCache, blocks_for
from paceline.speculation.drafters.base import SequenceView

Key = tuple[str, int]


class Track:
    """One sequence's keys and values: those of its first ``computed`` known tokens, then those of the ``drafted``
    tokens that were computed behind them and may yet turn out to be the text."""

    __slots__ = ("computed", "drafted", "table")

    def __init__(self, table: BlockTable, computed: int) -> None:
        self.table = table
        self.computed = computed
        self.drafted: list[int] = []


class DraftCache:
    """Tracks of the sequences whose keys and values are held, least recently used first.

    Everything here can be computed again, so whoever needs blocks takes them from the least recently used track that
    is not protected. A dropped track's full blocks stay findable in the prefix cache until they are used again.
    """

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self.tracks: OrderedDict[Key, Track] = OrderedDict()
        self._max_tracks = cache.tables.shape[1]

    def pending(self, sequence: SequenceView) -> int:
        """Known tokens to compute before the next draft token: at least the last one, whose logits are wanted. Drafted
        tokens that have become the text count as computed; those that have not are forgotten."""
        track = self.tracks.get(sequence.key)
        if track is None:
            return sequence.length
        if track.drafted:
            known = sequence.token_ids[track.computed :].tolist()
            matched = 0
            while matched < min(len(known), len(track.drafted)) and known[matched] == track.drafted[matched]:
                matched += 1
            track.drafted = []
            if matched:
                self.advance(track, sequence, track.computed + matched)
        assert track.computed <= sequence.length, f"the known tokens of {sequence.key} changed"
        track.computed = min(track.computed, sequence.length - 1)
        return sequence.length - track.computed

    def advance(self, track: Track, sequence: SequenceView, computed: int) -> None:
        """The first ``computed`` known tokens have keys and values. The block of the last known one is not published
        yet: where the sequence does not grow before the next call, that token is computed once more."""
        track.computed = computed
        self.cache.advance(track.table, sequence.token_ids, min(computed, sequence.length - 1))

    def new_prompt_blocks(self, track: Track, sequence: SequenceView) -> bool:
        """Whether full blocks of the prompt are still to be computed."""
        size = self.cache.block_size
        return track.computed // size < min(sequence.prompt_length, sequence.length - 1) // size

    def touch(self, keys: Seq[Key]) -> None:
        """These are in use now, the first of them the most."""
        for key in reversed(keys):
            if key in self.tracks:
                self.tracks.move_to_end(key)

    def start(self, sequence: SequenceView, protected: Collection[Key]) -> Track | None:
        """A track for a sequence that has none, with what the prefix cache knows of it; None when blocks for all its
        tokens cannot be had, so that nobody is started who could not become level."""
        if len(self.tracks) == self._max_tracks and not self._drop_oldest(protected):
            return None
        table = self.cache.new_table()
        computed = self.cache.attach(table, sequence.token_ids, sequence.length - 1)
        while (shortage := self.cache.shortage(table, sequence.length)) > 0:
            if shortage > self._obtainable(protected) or not self._drop_oldest(protected):
                self.cache.free(table)
                return None
        track = self.tracks[sequence.key] = Track(table, computed)
        return track

    def reserve(self, track: Track, num_tokens: int, protected: Collection[Key]) -> bool:
        """Slots for the sequence's first ``num_tokens`` tokens; False, and nothing changed, when they cannot be had."""
        table = track.table
        if self.cache.extend(table, num_tokens):
            return True
        missing = blocks_for(num_tokens - self.cache.room(table), self.cache.block_size)
        if missing > self._obtainable(protected):
            return False
        while not self.cache.extend(table, num_tokens):
            if not self._drop_oldest(protected):
                return False  # blocks that were counted twice, for they are shared
        return True

    def drop(self, key: Key) -> None:
        """Gives back the blocks of a sequence, if it has any."""
        track = self.tracks.pop(key, None)
        if track is not None:
            self.cache.free(track.table)

    def _obtainable(self, protected: Collection[Key]) -> int:
        """Blocks, in every group, that dropping all tracks that are not protected would give; those that are shared
        count more than once."""
        tables = [track.table for key, track in self.tracks.items() if key not in protected]
        return sum(table.num_blocks - max(table.released) for table in tables)

    def _drop_oldest(self, protected: Collection[Key]) -> bool:
        key = next((key for key in self.tracks if key not in protected), None)
        if key is None:
            return False
        self.drop(key)
        return True
