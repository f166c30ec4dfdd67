"""What the turbo drafter keeps of each sequence: hidden states that came, and keys and values computed from them."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence as Seq
from itertools import groupby

import numpy as np
import numpy.typing as npt

from paceline.backends.base import FloatArray
from paceline.kv.cache import BlockTable, KVCache
from paceline.speculation.drafters.base import Progress, SequenceView

Key = tuple[str, int]

#: The upper halves of float32 numbers, rounded: bfloat16. A prompt's states may wait long, and are large.
HalfArray = npt.NDArray[np.uint16]

#: Of waiting states, each of which keeps a whole step's in memory.
MOST_PIECES = 16


class StateTrack:
    """Known tokens ``start..next - 1`` of one sequence. The first ``computed`` of them have keys and values; the hidden
    states (each of the token before) of the others wait in ``waiting``, as bfloat16. ``last``: that of the last
    computed one.

    Text before ``start`` was never seen (its states were in the target's prefix cache, or it is out of the window):
    places are counted from ``start``, which to a rotary embedding is all the same.
    """

    __slots__ = ("computed", "last", "num_waiting", "start", "table", "waiting")

    def __init__(self, table: BlockTable) -> None:
        self.table = table
        self.begin(0)

    def begin(self, position: int) -> None:
        """Forgets what was seen; goes on with the token at ``position``."""
        self.start = position
        self.computed = 0
        self.waiting: list[HalfArray] = []
        self.num_waiting = 0
        self.last: HalfArray | None = None

    @property
    def next(self) -> int:
        """Position of the first token whose state has not come."""
        return self.start + self.computed + self.num_waiting

    def add(self, states: HalfArray) -> None:
        """The array may be a part of a step's; of those only the last few are kept, the rest is copied."""
        self.waiting.append(states)
        self.num_waiting += len(states)
        if len(self.waiting) > MOST_PIECES:
            self.waiting = [np.concatenate(self.waiting)]

    def take(self, count: int) -> FloatArray:
        """The first ``count`` waiting states ``[count, width]``: they count as computed from now on."""
        states = self.waiting[0] if len(self.waiting) == 1 else np.concatenate(self.waiting)
        taken, rest = states[:count], states[count:]
        self.waiting, self.num_waiting = ([rest], len(rest)) if len(rest) else ([], 0)
        self.computed += count
        self.last = taken[-1]
        return widened(taken)

    def repeat(self) -> None:
        """The last computed token waits again: it is asked for what follows it once more."""
        assert self.last is not None and self.num_waiting == 0
        self.computed -= 1
        self.add(self.last[None])


class StateTracks:
    """Tracks of sequences, least recently used first. There are blocks for all of them, each with a whole window and
    the rows of a step, so only their number is limited: the least recently used one gives way.

    ``columns``: those of ``Progress.hidden`` that are wanted, found when the first comes. ``width``: of a row of all
    our layers.
    """

    def __init__(self, cache: KVCache, layers: tuple[int, ...], width: int, window: int) -> None:
        self.cache = cache
        self.tracks: OrderedDict[Key, StateTrack] = OrderedDict()
        self._layers = layers
        self._width = width
        self._window = window
        self._max_tracks = cache.tables.shape[1]
        self._columns: dict[tuple[int, ...], slice | np.ndarray] = {}

    def observe(self, progress: Seq[Progress]) -> None:
        """Takes the states of a step."""
        for _, parts in groupby(progress, key=lambda part: id(part.hidden)):
            self._take_step(list(parts))

    def _take_step(self, progress: Seq[Progress]) -> None:
        """All sequences' rows at once: a call for each would cost more than the copying."""
        hidden, layers = progress[0].hidden, progress[0].layers
        if hidden is None:
            return
        rows: list[int] = []
        ends: list[tuple[StateTrack, int]] = []
        for part in progress:
            if part.rows:
                track, wanted = self._new_rows(part)
                if wanted:
                    rows += wanted
                    ends.append((track, len(rows)))
        if not rows:
            return
        given = hidden.numpy() if hidden.device.type == "cpu" else hidden.cpu().numpy()
        states = halved(given[rows][:, self._wanted(layers)])
        start = 0
        for track, end in ends:
            track.add(states[start:end])
            start = end
            if track.num_waiting > 2 * self._window:  # nobody asks
                kept = np.concatenate(track.waiting)[-self._window :]
                self._restart(track, track.next - len(kept))
                track.add(kept)

    def _new_rows(self, part: Progress) -> tuple[StateTrack, Seq[int]]:
        """The rows that a sequence's track lacks. The row of the token at position p says what is known when token
        p + 1 is: so that is whose entry it makes."""
        length = part.sequence.length
        first, end = part.first + 1, min(part.first + 1 + len(part.rows), length)
        track = self.tracks.get(part.sequence.key)
        if track is None:
            track = self._new(part.sequence.key)
        begin = track.next
        if first > begin or (end > begin and length - self._window > begin):  # a gap, or too far behind to matter
            begin = max(first, length - self._window)
            self._restart(track, begin)
        return track, part.rows[begin - first : end - first] if begin < end else ()

    def get(self, sequence: SequenceView) -> StateTrack | None:
        """The track of a sequence all of whose states have come."""
        track = self.tracks.get(sequence.key)
        if track is None or track.next != sequence.length or track.computed + track.num_waiting == 0:
            return None
        self.tracks.move_to_end(sequence.key)
        return track

    def drop(self, key: Key) -> None:
        track = self.tracks.pop(key, None)
        if track is not None:
            self.cache.free(track.table)

    def _new(self, key: Key) -> StateTrack:
        if len(self.tracks) == self._max_tracks:
            self.drop(next(iter(self.tracks)))
        table = self.cache.new_table()
        self.cache.attach(table, _NO_TOKENS, 0)
        track = self.tracks[key] = StateTrack(table)
        return track

    def _restart(self, track: StateTrack, position: int) -> None:
        self.cache.free(track.table)
        self.cache.attach(track.table, _NO_TOKENS, 0)
        track.begin(position)

    def _wanted(self, layers: tuple[int, ...]) -> slice | np.ndarray:
        """Columns of our layers among those of all layers that drafters asked for."""
        columns = self._columns.get(layers)
        if columns is None:
            if layers == self._layers:
                columns = slice(None)
            else:
                columns = columns_of(self._layers, layers, self._width // len(self._layers))
            self._columns[layers] = columns
        return columns


_NO_TOKENS = np.empty(0, dtype=np.int32)
_UPPER = 1 if sys.byteorder == "little" else 0  # of the two halves of a number in memory


def halved(numbers: FloatArray) -> HalfArray:
    """Float32 numbers ``[n, width]`` as bfloat16, half away from zero. Overwrites them."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    bits += 0x8000
    return bits.view(np.uint16)[:, _UPPER::2].copy()


def widened(halves: HalfArray) -> FloatArray:
    bits = np.zeros(halves.shape, dtype=np.uint32)
    bits.view(np.uint16)[:, _UPPER::2] = halves
    return bits.view(np.float32)


def columns_of(wanted: Seq[int], given: Seq[int], width: int) -> np.ndarray:
    """Columns of the layers ``wanted`` where those of ``given`` stand side by side, ``width`` each."""
    return np.concatenate([np.arange(width) + list(given).index(layer) * width for layer in wanted])
