"""Versions of a speculator in a folder: which there are, which is in use, and the way back.

``NNNN/`` is a speculator's folder with ``version.json`` beside it, what is known of it. It appears complete or not at
all, and the trainer writes it. ``current.json`` is written by the server alone: so nobody ever races for it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from paceline.errors import InvalidRequestError

CURRENT, CARD = "current.json", "version.json"
HISTORY = 32  # versions that were in use before, the last ones


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Two speculators on the same held-out texts, none of which was there when either was trained. Figures are tokens
    a step, every draft verified whole, 1 without drafts; ``low`` and ``high`` bound the gain (``confidence``)."""

    against: int  # the version that was in use
    texts: int
    tokens: int
    current: float
    candidate: float
    low: float
    high: float
    confidence: float
    better: bool


class VersionCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a version. ``base``: the version that its training began from; None: from nothing."""

    number: int
    made: str
    base: int | None = None
    train_texts: int = 0
    train_tokens: int = 0
    judgement: Judgement | None = None


class Current(msgspec.Struct, frozen=True, kw_only=True):
    """``version`` in use; 0: what the server started with. ``before``: those that were in use, the last one last.
    ``seen``: versions up to this number were taken or left."""

    version: int = 0
    before: list[int] = []
    seen: int = 0


class Versions:
    """The folder ``root``. ``number`` 0 has no folder: it is the speculator that the server was started with."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, number: int) -> Path:
        return self.root / f"{number:04d}"

    def numbers(self) -> list[int]:
        """Ascending. Folders without a card are not versions: somebody has begun to write or to delete them."""
        if not self.root.is_dir():
            return []
        named = (path for path in self.root.iterdir() if path.name.isdecimal())
        return sorted(int(path.name) for path in named if (path / CARD).is_file())

    def card(self, number: int) -> VersionCard | None:
        """None where it cannot be read."""
        try:
            return msgspec.json.decode((self.folder(number) / CARD).read_bytes(), type=VersionCard)
        except (OSError, msgspec.DecodeError):
            return None

    def current(self) -> Current:
        """Raises ``InvalidRequestError`` for a file that says something else."""
        file = self.root / CURRENT
        try:
            return msgspec.json.decode(file.read_bytes(), type=Current)
        except FileNotFoundError:
            return Current()
        except (OSError, msgspec.DecodeError) as error:
            raise InvalidRequestError(
                f"{file} cannot be read ({error}): delete it to begin with the speculator that the server starts with"
            ) from error

    def use(self, number: int) -> Current:
        """``number`` is in use from now on, and the one that was is where ``rolled_back`` goes."""
        was = self.current()
        if was.version == number:
            return was
        before = [*was.before, was.version][-HISTORY:]
        return self._write(Current(version=number, before=before, seen=max(was.seen, number)))

    def rolled_back(self) -> Current:
        """What ``current`` is after going back one version, not written yet. Raises ``InvalidRequestError`` when there
        is none to go back to."""
        was = self.current()
        there = set(self.numbers()) | {0}
        before = [number for number in was.before if number in there]
        if not before:
            raise InvalidRequestError("no version was in use before this one: there is nothing to go back to")
        return Current(version=before[-1], before=before[:-1], seen=was.seen)

    def write(self, current: Current) -> Current:
        """Keeps what ``rolled_back`` gave."""
        return self._write(current)

    def see(self, number: int) -> None:
        """The version was looked at; a server that starts later need not."""
        was = self.current()
        if number > was.seen:
            self._write(msgspec.structs.replace(was, seen=number))

    def next_number(self) -> int:
        """Of a new version: numbers are not used twice."""
        return max([*self.numbers(), self.current().seen, 0]) + 1

    def publish(self, written: Path, card: VersionCard) -> Path:
        """The speculator's folder ``written`` becomes version ``card.number``, all at once."""
        (written / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
        folder = self.folder(card.number)
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(folder, ignore_errors=True)
        written.replace(folder)
        return folder

    def prune(self, max_bytes: int, keep: Iterable[int] = ()) -> list[int]:
        """Deletes the oldest versions until the rest fits; those in use now and before, ``keep``, and the newest stay.
        The numbers that went."""
        current, numbers = self.current(), self.numbers()
        stay = {current.version, *current.before[-1:], *numbers[-1:], *keep}
        sizes = {number: _size(self.folder(number)) for number in numbers}
        gone = []
        for number in numbers:
            if sum(sizes.values()) <= max_bytes:
                break
            if number not in stay:
                shutil.rmtree(self.folder(number), ignore_errors=True)
                del sizes[number]
                gone.append(number)
        return gone

    def _write(self, current: Current) -> Current:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self.root / f"{CURRENT}.partial"
        with partial.open("wb") as file:
            file.write(msgspec.json.encode(current) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.root / CURRENT)
        return current


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
