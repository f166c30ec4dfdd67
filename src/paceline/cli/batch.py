"""Runs an offline batch: each request goes through the server's own application, so it is checked and answered exactly
as over HTTP, by an engine in a process of its own, which is restarted if it dies."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from starlette.types import ASGIApp

from paceline.cli.batch_file import BatchFileError, BatchLine, OutputFile, output_line, read_lines, scan
from paceline.engine.options import ENGINE_FACTORY, EngineOptions
from paceline.errors import AdapterError, EngineDeadError
from paceline.models.sources import resolve_model
from paceline.models.tokenizer import load_tokenizer
from paceline.server.app import create_app
from paceline.server.config import ServerConfig
from paceline.server.context import ServerContext
from paceline.server.engine_client import EngineClient
from paceline.server.in_process import post

_RETRY_S = 0.2  # between attempts for a request that found the queue full
_MAX_BODY = 1 << 30  # bytes; the file is the user's own


async def run_batch(
    file: Path,
    output: Path,
    options: EngineOptions,
    any_model: bool = False,
    concurrency: int | None = None,
    progress: bool = False,
    factory: str | None = None,
) -> int:
    """Answers the requests in ``file``; how many failed. ``factory``: builds another engine than the usual one."""
    total, ids = scan(file)
    if output.exists() and output.samefile(file):
        raise BatchFileError(f"{output} is the file with the requests: choose another one for the answers")
    with OutputFile(output) as answers:
        skipped = len(ids & answers.finished)
        if skipped == total:
            print(f"All {total} requests are answered in {output} already.", file=sys.stderr)
            return 0
        lines = (line for line in read_lines(file) if line.custom_id not in answers.finished)
        async with _application(options, factory) as (app, engine, limit):
            batch = _Batch(app, engine, answers, any_model)
            with _progress_bar(total, skipped, progress) as advance:
                await batch.run(lines, concurrency or limit, advance)
    done = total - skipped - batch.failed
    print(f"{done} requests answered, {skipped} were already, {batch.failed} failed: see {output}", file=sys.stderr)
    return batch.failed


class _Batch:
    """Sends lines to the application, several at a time, and writes down what comes back."""

    def __init__(self, app: ASGIApp, engine: EngineClient, answers: OutputFile, any_model: bool) -> None:
        self.failed = 0
        self._app = app
        self._engine = engine
        self._answers = answers
        self._any_model = any_model

    async def run(self, lines: Iterator[BatchLine], concurrency: int, advance: Callable[[], None]) -> None:
        """Until ``lines`` are used up. Raises ``EngineDeadError`` when there is no engine any more."""

        async def work() -> None:
            for line in lines:
                self._answers.append(await self._answer(line))
                advance()

        workers = [asyncio.ensure_future(work()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _answer(self, line: BatchLine) -> dict[str, Any]:
        """The output line for a request."""
        request_id = uuid.uuid4().hex
        status, body = 400, _problem(line.problem or "", "invalid_line")
        if line.problem is None and line.body is not None:
            status, body = await self._post(line.url, line.body)
        error = None
        if status != 200:
            self.failed += 1
            told = body.get("error", {})
            error = {"line": line.number, "code": told.get("code")}
            error["message"] = f"line {line.number}: {told.get('message')}"
        return output_line(line.custom_id, request_id, status, body, error)

    async def _post(self, url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer; waits while the queue is full."""
        if self._any_model:
            body = {name: value for name, value in body.items() if name != "model"}
        data = msgspec.json.encode(body)
        while True:
            answer = await post(self._app, url, data)
            if self._engine.dead is not None:
                raise EngineDeadError(self._engine.dead)
            if answer.status != 429:
                return answer.status, msgspec.json.decode(answer.body)
            await asyncio.sleep(_RETRY_S)


def _problem(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


@asynccontextmanager
async def _application(options: EngineOptions, factory: str | None) -> AsyncIterator[tuple[ASGIApp, EngineClient, int]]:
    """The server's application on an engine of its own, and how many requests it is best given at once."""
    source = resolve_model(options.model)
    engine = EngineClient(msgspec.structs.replace(options, model=str(source.path)), factory=factory or ENGINE_FACTORY)
    names = tuple(dict.fromkeys((source.name, *filter(None, [options.model]))))
    taken = sorted(options.adapters.keys() & set(names))
    if taken:
        raise AdapterError(f"{taken[0]!r} is a name of the base model; choose another for the adapter")
    context = ServerContext(ServerConfig(model_names=names, max_body_bytes=_MAX_BODY), engine)
    loading = asyncio.ensure_future(engine.start())
    try:
        context.set_tokenizer(await asyncio.to_thread(load_tokenizer, source.path))
        ready = await loading
        yield create_app(context), engine, min(2 * ready.max_running, ready.max_running + ready.max_queue)
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await engine.close()


@contextmanager
def _progress_bar(total: int, done: int, shown: bool) -> Iterator[Callable[[], None]]:
    """Gives the function to call for each request that is done."""
    if not shown:
        yield lambda: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("requests", total=total, completed=done)
        yield lambda: bar.advance(task)
