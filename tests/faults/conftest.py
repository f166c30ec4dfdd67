"""Engine processes that fail on purpose, and a supervisor in front of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import paceline
from paceline.engine.messages import Request, SequenceDelta
from paceline.engine.options import EngineOptions
from paceline.sampling.params import SamplingParams
from paceline.server.engine_client import EngineClient

TIMEOUT_S = 60.0
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _engine_process_finds_the_fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(__file__).parent
    source = Path(paceline.__file__).parent.parent  # the package under test, native modules included
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(here), str(source), inherited])))


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine; a test that hangs fails."""

    def go(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT_S))

    return go


@asynccontextmanager
async def _client(model: str = "", **options: Any) -> AsyncIterator[EngineClient]:
    kwargs = {name: options.pop(name) for name in ("on_report", "recovery", "factory") if name in options}
    client = EngineClient(EngineOptions(model=model, **options), **{"factory": "fake_engine:build", **kwargs})
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def engine_client() -> Callable[..., AbstractAsyncContextManager[EngineClient]]:
    return _client


@pytest.fixture
def make_request() -> Callable[..., Request]:
    """A request with ids and a seed of its own."""

    def make(prompt: list[int] | None = None, **params: Any) -> Request:
        number = next(_numbers)
        params = {"max_tokens": 50, "seed": number, **params}
        prompt = [number % 100 + 1, 2, 3] if prompt is None else prompt
        sampling = SamplingParams(**params)
        return Request(request_id=f"r{number}", prompt_ids=prompt, params=sampling, arrival_time=time.time())

    return make


class Collected:
    """What a consumer got of one request."""

    def __init__(self) -> None:
        self.deltas: list[SequenceDelta] = []

    def tokens(self, index: int = 0) -> list[int]:
        return [token for delta in self.deltas if delta.index == index for token in delta.token_ids]

    def reason(self, index: int = 0) -> str | None:
        reasons = [delta.finish_reason for delta in self.deltas if delta.index == index and delta.finish_reason]
        assert len(reasons) <= 1
        return reasons[0] if reasons else None


@pytest.fixture
def collect() -> Callable[..., Coroutine[Any, Any, Collected]]:
    """Consumes a request to its end, ``pause_s`` after each delta."""

    async def consume(client: EngineClient, request: Request, pause_s: float = 0.0) -> Collected:
        collected = Collected()
        async for delta in client.generate(request):
            collected.deltas.append(delta)
            if pause_s:
                await asyncio.sleep(pause_s)
        return collected

    return consume


@pytest.fixture
def until() -> Callable[..., Coroutine[Any, Any, None]]:
    """Waits for a condition."""

    async def wait(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)

    return wait
