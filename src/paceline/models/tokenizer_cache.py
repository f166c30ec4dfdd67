"""Built tokenizers on disk, for those that take long to build."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import tokenizers

from paceline.models.cache import cache_folder

_FORMAT = 1  # to be raised when the way tokenizers are built changes


def cached_backend(model: Path, build: Callable[[], tokenizers.Tokenizer], variant: str = "") -> tokenizers.Tokenizer:
    """``build()``, or what it gave before for the same file and ``variant`` (settings that are not in the file).

    A cache that cannot be read or written is no error."""
    stat = model.stat()
    name = f"{_FORMAT}|{tokenizers.__version__}|{model.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{variant}"
    path = cache_folder() / "tokenizers" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(Exception):  # tokenizers raises bare Exception
        return tokenizers.Tokenizer.from_file(str(path))
    backend = build()
    with contextlib.suppress(OSError):
        _write(path, backend.to_str())
    return backend


def _write(path: Path, text: str) -> None:
    """Writes a file that other processes see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tokenizer-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
