"""Adapters of the fake model: folders with a salt for its hashes, and readers that tests can hold up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_model import FakeBackend, make_engine_with

from paceline.engine.engine import Engine
from paceline.errors import AdapterError

NBYTES = 100


@dataclass(frozen=True)
class FakeWeights:
    parts: dict[tuple[int, str], int]
    nbytes: int = NBYTES
    speculator: Any = None


def write_adapter(folder: Path, salt: int, broken: str = "") -> Path:
    """Writes an adapter; each differs in size, so that its files are told apart even within one tick of the clock."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"salt": salt, "broken": broken, "padding": "x" * (salt % 1000)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def read_fake(folder: Path) -> FakeWeights:
    config = json.loads((folder / "adapter_config.json").read_text())
    if config["broken"]:
        raise AdapterError(config["broken"])
    return FakeWeights({(0, "q"): config["salt"]})


class AtOnce(Executor):
    """Reads when it is asked to."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class WhenTold(Executor):
    """Reads when the test says so. Nobody waits for it longer than a step does."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future, Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def read(self, count: int = 1) -> None:
        """Does the first ``count`` jobs."""
        for _ in range(min(count, len(self.jobs))):
            future, job = self.jobs.pop(0)
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)


class CountingReader:
    """Reads fake adapters; counts how often each folder was read, and on which thread."""

    def __init__(self) -> None:
        self.folders: list[str] = []
        self.threads: set[int] = set()

    def __call__(self, folder: Path) -> FakeWeights:
        self.folders.append(folder.name)
        self.threads.add(threading.get_ident())
        return read_fake(folder)


def engine_with_adapters(
    slots: int = 2,
    windows: Sequence[int] = (0,),
    context: int = 256,
    drafter: object = None,
    reader: Callable[[Path], FakeWeights] = read_fake,
    executor: Executor | None = None,
    **config: object,
) -> tuple[Engine, FakeBackend]:
    """An engine that may hold ``slots`` adapters; reads at once unless told otherwise."""
    engine, backend = make_engine_with(FakeBackend(slots), windows, context, drafter, reader, **config)
    engine.adapters.registry.executor = executor or AtOnce()
    return engine, backend


def load(engine: Engine, name: str, folder: Path, replace: bool = False) -> str | None:
    """Loads an adapter; the error, None where there was none."""
    engine.load_adapter(name, str(folder), replace=replace)
    for _ in range(1000):
        for reply in engine.step().replies:
            assert reply.name == name
            return reply.error
    raise AssertionError("no reply")
