"""One version of an adapter, and what tells versions apart."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from paceline.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
MAX_NAME = 128  # characters


class Weights(Protocol):
    """What is read from a folder: the parts for the backend, and the bytes that they take."""

    @property
    def parts(self) -> Mapping[tuple[int, str], Any]: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(slots=True, eq=False)
class Adapter:
    """The files of a folder as they were when they were loaded under a name.

    ``version`` is never used twice, so ``key`` names what was computed with these weights and no others. ``weights`` is
    the copy in host memory, None where it was dropped. ``slot``: its place in the backend, given to it from before its
    weights are there (``resident``) until it is evicted. ``num_sequences`` are unfinished, ``num_running`` of them are
    in the running batch and hold the slot. ``retired``: no request can name it any more.
    """

    name: str
    version: int
    folder: Path
    fingerprint: str
    weights: Weights | None = None
    nbytes: int = 0
    slot: int | None = None
    resident: bool = False
    reading: Future[tuple[Weights, float]] | None = None
    num_sequences: int = 0
    num_running: int = 0
    last_used: int = 0
    retired: bool = False

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"


def check_name(name: str) -> None:
    """Raises ``AdapterError`` for a text that cannot name an adapter in requests, logs and metrics."""
    if not name or len(name) > MAX_NAME or name != name.strip() or not name.isprintable():
        raise AdapterError(
            f"an adapter's name must have 1 to {MAX_NAME} printable characters and no spaces around them, got {name!r}"
        )


def fingerprint_of(folder: Path) -> str:
    """Names the present content of an adapter's files, by their sizes and times. Raises ``AdapterError`` where no
    adapter is."""
    try:
        stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.name.startswith("adapter_")]
    except OSError as error:
        raise AdapterError(f"there is no adapter at {folder}: {error.strerror}") from None
    if CONFIG_FILE not in (name for name, _ in stats):
        raise AdapterError(f"there is no adapter at {folder}: it has no {CONFIG_FILE}")
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def adapters_below(folder: Path) -> dict[str, Path]:
    """The adapters that are subfolders of ``folder``, by the subfolders' names. Raises ``AdapterError``."""
    try:
        found = sorted(path for path in folder.iterdir() if (path / CONFIG_FILE).is_file())
    except OSError as error:
        raise AdapterError(f"cannot look for adapters in {folder}: {error.strerror}") from None
    return {path.name: path for path in found}
