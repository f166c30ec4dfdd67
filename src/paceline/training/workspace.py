"""Where a training keeps its work: ``OUTPUT.partial`` beside the output, which appears complete or not at all."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from paceline.errors import InvalidRequestError, PacelineError

RUN = "run.json"
REPORT = "training.json"


class Workspace:
    """``identity``: everything that the result depends on, plain values by name. Work of another identity is refused,
    naming what differs. ``overwrite``: other work and an old output may go."""

    def __init__(self, output: Path, identity: Mapping[str, Any], overwrite: bool) -> None:
        self.output = output = output.resolve()
        self.folder = output.with_name(f"{output.name}.partial")
        self.result = self.folder / "result"
        self.identity = json.loads(json.dumps(identity))
        self.overwrite = overwrite

    @property
    def complete(self) -> bool:
        """Whether the output is the result of this very training."""
        return bool(_read(self.output / REPORT).get("identity") == self.identity)

    def output_report(self) -> dict[str, Any]:
        """What the output tells of itself."""
        return _read(self.output / REPORT)

    @contextmanager
    def open(self) -> Iterator[bool]:
        """Takes the folder for this process; gives whether there is work to go on with. Raises ``InvalidRequestError``
        when the output is taken, or the work is another training's or in use."""
        self._check_output()
        lock = FileLock(f"{self.folder}.lock")
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise InvalidRequestError(f"another training works in {self.folder}; wait for it to end") from None
        except OSError as error:
            raise InvalidRequestError(f"cannot write beside {self.output}: {error}", param="output") from error
        try:
            yield self._claim()
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)

    def stage(self, name: str) -> Path:
        """The folder of a stage's work."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def read(self, name: str) -> dict[str, Any] | None:
        """What ``write`` kept, None: it has not been written."""
        return _read(self.folder / f"{name}.json") or None

    def write(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps what came of a stage: from now on it is complete. Gives it as ``read`` does."""
        write_json(self.folder / f"{name}.json", values)
        return self.read(name) or {}

    def finish(self) -> None:
        """The result becomes the output; the work is deleted."""
        old = self.output.with_name(f"{self.output.name}.old")
        if self.output.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.output.rename(old)
        self.result.rename(self.output)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check_output(self) -> None:
        output = self.output
        if output.exists() and not output.is_dir():
            raise InvalidRequestError(f"{output} is a file; the output must be a folder", param="output")
        if output.is_dir() and any(output.iterdir()) and not self.overwrite:
            raise InvalidRequestError(
                f"{output} is not empty: choose another folder, or --overwrite to replace it when the training is "
                "complete",
                param="output",
            )

    def _claim(self) -> bool:
        before = _read(self.folder / RUN)
        if before == self.identity:
            return True
        if before and not self.overwrite:
            raise InvalidRequestError(
                f"{self.folder} holds the work of another training. {_difference(before, self.identity)}. Repeat its "
                "command to go on with it, choose another output, or --overwrite to begin anew",
                param="output",
            )
        if self.folder.exists():
            if not before and any(self.folder.iterdir()):
                raise InvalidRequestError(f"{self.folder} is not the work of a training; move it away", param="output")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        write_json(self.folder / RUN, self.identity)
        return False


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """The file appears complete."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Says plainly what ended a training where memory or disk did."""
    try:
        yield
    except PacelineError:
        raise
    except MemoryError as error:
        raise PacelineError(_no_memory(folder)) from error
    except Exception as error:
        text = str(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PacelineError(_no_space(folder)) from error
        if "No space left" in text or "PytorchStreamWriter failed" in text or "file write failed" in text:
            raise PacelineError(_no_space(folder)) from error
        if "out of memory" in text.lower() or "not enough memory" in text or "can't allocate memory" in text:
            raise PacelineError(_no_memory(folder)) from error
        raise


def _no_memory(folder: Path) -> str:
    return (
        "there is not enough memory. Smaller batches (--batch-tokens) or shorter rows (--max-length) need less; the "
        f"same command goes on where it was, its work is in {folder}"
    )


def _no_space(folder: Path) -> str:
    return (
        f"the disk is full. Make room and run the same command again: it goes on where it was, its work is in {folder}"
    )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of two identities is not the same, in words."""
    told = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _difference(old, new)
            told += [inner.removeprefix("It differs in ")] if old != new else []
        elif old != new:
            digest = key.endswith("digest")
            told.append(f"the content of {key.removesuffix('_digest')}" if digest else f"{key} ({old!r}, now {new!r})")
    return "It differs in " + ", ".join(told)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Has ``write`` make ``folder``, in place of what is there: it appears by one rename, complete."""
    partial = folder.with_name("partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
