"""Texts of live traffic on disk: segments of JSON lines, the oldest dropped when there are too many bytes.

A record is a prompt and what the target wrote behind it, in token ids, and how drafts fared. Hidden states are not in
it: the trainer computes them from the tokens, with the kernels of the server (docs/decisions/0013).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import msgspec

logger = logging.getLogger(__name__)

SEGMENTS = 32  # about so many make up the limit
HELD_SHARE = 0.125  # of prompts, whose texts are only judged by
_SUFFIX = ".jsonl"


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One text. ``serial`` grows with every record of a folder. ``held``: only to be judged by. ``steps``: in which the
    text was computed, with ``drafted`` draft tokens verified and ``accepted`` accepted."""

    serial: int
    prompt: list[int]
    output: list[int]
    held: bool = False
    steps: int = 0
    drafted: int = 0
    accepted: int = 0


def is_held(prompt: Sequence[int]) -> bool:
    """Whether texts behind this prompt are held out: by the prompt alone, so no text is ever on both sides, not even
    as another answer to the same prompt."""
    return int.from_bytes(_digest(prompt)) < HELD_SHARE * 2**64


def _digest(tokens: Sequence[int]) -> bytes:
    return blake2b(b"".join(token.to_bytes(4, "little") for token in tokens), digest_size=8).digest()


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int = 0
    digests: set[bytes] = field(default_factory=set)  # of the texts in it


class TextStore:
    """Writes records. One process at a time (whoever opens it holds a lock on the folder); readers may come and go.

    ``add`` raises ``OSError`` where the disk does not take a record; what is complete stays readable.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        assert max_bytes > 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self.folder = folder
        self.max_bytes = max_bytes
        self.dropped_duplicates = 0
        self._file: int | None = None
        self._segments: list[_Segment] = []
        self._known: set[bytes] = set()
        self.count = 0
        self.next_serial = 1
        for path in segments_of(folder):
            segment = _Segment(path, path.stat().st_size)
            for record in read_segment(path):
                segment.digests.add(_digest([*record.prompt, -1 & 0xFFFFFFFF, *record.output]))
                self.next_serial = max(self.next_serial, record.serial + 1)
            self._segments.append(segment)
            self._known |= segment.digests
            # Also of a segment that nothing could be read from: a name is never used twice.
            self.next_serial = max(self.next_serial, int(path.name.removesuffix(_SUFFIX)) + 1)
        self.count = len(self._known)
        self._make_room(0)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    def add(
        self, prompt: Sequence[int], output: Sequence[int], steps: int = 0, drafted: int = 0, accepted: int = 0
    ) -> bool:
        """Keeps a text; False for one that is known already, or larger than the whole store may be."""
        digest = _digest([*prompt, -1 & 0xFFFFFFFF, *output])
        if digest in self._known:
            self.dropped_duplicates += 1
            return False
        record = Record(self.next_serial, list(prompt), list(output), is_held(prompt), steps, drafted, accepted)
        line = msgspec.json.encode(record) + b"\n"
        if len(line) > self.max_bytes:
            return False
        self._make_room(len(line))
        if self._file is None:
            self._begin_segment()
        assert self._file is not None
        segment = self._segments[-1]
        try:
            written = os.write(self._file, line)
            segment.size += written
            if written < len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
        except OSError:
            self.next_serial += 1  # a segment's name is not used twice
            self.close()  # a later record does not continue a line that was cut off
            raise
        segment.digests.add(digest)
        self._known.add(digest)
        self.count += 1
        self.next_serial += 1
        if segment.size >= self.max_bytes // SEGMENTS:
            self.close()
        return True

    def close(self) -> None:
        """Ends the segment that is being written; its bytes are on the disk then, whatever happens to the machine."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def _begin_segment(self) -> None:
        path = self.folder / f"{self.next_serial:012d}{_SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._segments.append(_Segment(path))
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _make_room(self, wanted: int) -> None:
        while self._segments and self.size + wanted > self.max_bytes:
            if len(self._segments) == 1:
                self.close()
            gone = self._segments.pop(0)
            gone.path.unlink(missing_ok=True)
            self._known -= gone.digests
            self.count -= len(gone.digests)


def segments_of(folder: Path) -> list[Path]:
    """Segments, the oldest first. Other files are left alone."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if path.name.removesuffix(_SUFFIX).isdecimal())


def read_segment(path: Path) -> list[Record]:
    """Records of a segment. Lines that were cut off or damaged are passed over, with one line in the log; a file that
    is gone meanwhile has none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("%s cannot be read and is passed over: %s", path, error)
        return []
    records, bad = [], 0
    for line in lines:
        if not line:
            continue
        try:
            records.append(_decoder.decode(line))
        except msgspec.DecodeError:
            bad += 1
    if bad and path not in _told:
        _told.add(path)
        logger.warning("%s: %d incomplete or damaged lines are passed over, %d are good", path, bad, len(records))
    return records


_told: set[Path] = set()  # damaged segments, of which this process has told
_decoder = msgspec.json.Decoder(Record)


def read_newest(folder: Path, held: bool, after: int = 0) -> Iterator[Record]:
    """Records of one side with serials above ``after``, the newest first."""
    for path in reversed(segments_of(folder)):
        records = read_segment(path)
        for record in reversed(records):
            if record.serial > after and record.held == held:
                yield record
        # Whatever is in older segments is older.
        if records and records[0].serial <= after:
            return
