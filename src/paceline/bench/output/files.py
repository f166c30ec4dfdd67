"""Files that appear whole or not at all, and whether they can be written, asked before anything is measured."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from paceline.errors import PacelineError

_DEVICES = Path("/dev")  # /dev/stdout, /dev/null: written through, never replaced


class OutputError(PacelineError):
    """A file that cannot be written, or one that is no report."""


def check_writable(paths: Sequence[Path | None]) -> None:
    """Raises ``OutputError`` for a path that could not be written after the measurement; None stands for no file.

    An empty file is made in the folder and removed again, since permissions alone do not tell of a read-only system.
    """
    given = [path for path in paths if path is not None]
    for index, path in enumerate(given):
        if _is_device(path):
            continue
        if path in given[:index]:
            raise OutputError(
                f"{path} is named for two outputs, which would overwrite each other; give each its own file"
            )
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder; name a file in it")
        folder = path.parent
        if not folder.is_dir():
            raise OutputError(f"cannot write {path}: there is no folder {folder}; make it first, or name another file")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; name a file in a folder of your own") from error


def write_files(*files: tuple[Path | None, Callable[[], str]]) -> None:
    """Each file with what makes its text, in this order; None stands for no file. Says on standard error what was
    written. Raises ``OutputError`` when one cannot be, after the others were."""
    failures = []
    for path, text in files:
        if path is None:
            continue
        try:
            write_whole(path, text())
            print(f"wrote {path}", file=sys.stderr)
        except OutputError as error:
            failures.append(str(error))
    if failures:
        raise OutputError("; ".join(failures))


def write_whole(path: Path, text: str) -> None:
    """Writes beside the place and moves there, so that no reader meets half a file and an old one stays on failure.

    Raises ``OutputError`` when the system refuses (no space, no permission).
    """
    try:
        if _is_device(path):
            path.write_text(text, encoding="utf-8")
            return
        place = path.resolve()  # of a link, what it points to: the link stays
        partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            if place.exists():
                shutil.copymode(place, partial)
            partial.replace(place)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _is_device(path: Path) -> bool:
    """Also a pipe: what is no regular file cannot be replaced by one."""
    return path.absolute().is_relative_to(_DEVICES) or (path.exists() and not path.is_file() and not path.is_dir())
