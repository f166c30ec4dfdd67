"""One version of an adapter, and what tells versions apart."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from paceline.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
SPECULATOR_FOLDER = "speculator"  # below an adapter's
MAX_NAME = 128  # characters


class Speculator(Protocol):
    """What drafts for an adapter, as the adapter's owner sees it. ``positions``: most tokens of a draft;
    ``vocab_size``: tokens that it can propose; ``nbytes``: with its cache."""

    @property
    def positions(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Speculators(Protocol):
    """Who drafts with the speculators of adapters that are in slots. ``key``: of the adapter's version."""

    def attach(self, key: str, speculator: Any) -> None:
        """The adapter is in a slot: its sequences draft with its speculator from now on."""

    def detach(self, key: str) -> None:
        """It left its slot; no sequence runs with it. Nothing happens for one without a speculator."""


class Weights(Protocol):
    """What is read from a folder: the parts for the backend, the speculator if there is one, and the bytes that all of
    it takes."""

    @property
    def parts(self) -> Mapping[tuple[int, str], Any]: ...

    @property
    def speculator(self) -> Speculator | None: ...

    @property
    def nbytes(self) -> int: ...


class SpeculatorFacts(NamedTuple):
    """Of an adapter's speculator, known as soon as it was read; see ``Speculator``."""

    positions: int
    vocab_size: int
    nbytes: int


@dataclass(slots=True, eq=False)
class Adapter:
    """The files of a folder as they were when they were loaded under a name.

    ``version`` is never used twice, so ``key`` names what was computed with these weights and no others. ``weights`` is
    the copy in host memory, None where it was dropped; ``nbytes`` are its bytes, those of ``speculator`` among them
    (None: it has none). ``slot``: its place in the backend, given to it from before its
    weights are there (``resident``) until it is evicted. ``num_sequences`` are unfinished, ``num_running`` of them are
    in the running batch and hold the slot. ``retired``: no request can name it any more.
    """

    name: str
    version: int
    folder: Path
    fingerprint: str
    weights: Weights | None = None
    nbytes: int = 0
    speculator: SpeculatorFacts | None = None
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
    """Names the present content of an adapter's files, its speculator's among them, by their sizes and times. Raises
    ``AdapterError`` where no adapter is."""
    speculator = folder / SPECULATOR_FOLDER
    try:
        stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.name.startswith("adapter_")]
        if speculator.is_dir():
            stats += [(f"{SPECULATOR_FOLDER}/{file.name}", file.stat()) for file in sorted(speculator.iterdir())]
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
