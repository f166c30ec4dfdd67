"""``paceline serve``: engine process, HTTP server and tokenizer come up side by side.

The engine process takes longest, so it is started before anything slow is imported here; the HTTP port answers
``/health`` as soon as the application is imported, while the model loads.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from paceline.engine.machine import give_back_memory
from paceline.engine.messages import EngineReady
from paceline.engine.options import EngineOptions
from paceline.server.banner import announce
from paceline.server.config import ServerConfig
from paceline.server.engine_client import EngineClient

if TYPE_CHECKING:
    from paceline.models.tokenizer import Tokenizer
    from paceline.server.context import ServerContext
    from paceline.server.ports import EngineClient as EnginePort
    from paceline.server.serve import HttpServer

logger = logging.getLogger("paceline.server")

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``OSError`` when the port is taken or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def serve(config: ServerConfig, options: EngineOptions, sock: socket.socket) -> None:
    """Serves on ``sock`` until a signal ends it.

    Raises ``ModelLoadError`` or ``EngineDeadError`` when the model cannot be served.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, options, sock))


async def _serve(config: ServerConfig, options: EngineOptions, sock: socket.socket) -> None:
    begin = time.monotonic()
    engine = EngineClient(options)
    made: ServerContext | None = None
    starting = asyncio.create_task(engine.start(), name="engine-start")
    try:
        http, context = await asyncio.to_thread(_http_server, config, engine)
        made = context
        engine.on_report = context.metrics.on_report
        serving = asyncio.create_task(http.serve(sockets=[sock]), name="http")
        loading = asyncio.create_task(_load(context, options, starting, begin), name="load")
        await asyncio.wait((serving, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and loading.exception() is not None:
            http.handle_exit(0, None)
        await serving
        if loading.done():
            loading.result()
        else:
            loading.cancel()
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if made is not None and made.learning is not None:
            await made.learning.close()
        await engine.close()


def _http_server(config: ServerConfig, engine: EngineClient) -> tuple[HttpServer, ServerContext]:
    """Imports FastAPI and the rest; a third of a second, beside the engine's own imports."""
    from paceline.server.app import create_app
    from paceline.server.context import ServerContext
    from paceline.server.learning import Learning
    from paceline.server.serve import HttpServer

    context = ServerContext(config, cast("EnginePort", engine))
    if config.learn is not None:
        context.learning = Learning(config.learn, context.engine)
    return HttpServer(context, create_app(context)), context


async def _load(
    context: ServerContext, options: EngineOptions, starting: asyncio.Task[EngineReady], begin: float
) -> None:
    """Waits for the engine while the tokenizer is read, then says that all is up."""
    tokenizer = asyncio.create_task(asyncio.to_thread(_tokenizer, options.model))
    await asyncio.wait((starting, tokenizer), return_when=asyncio.FIRST_EXCEPTION)
    for task in (tokenizer, starting):
        if task.done():
            task.result()
    if context.learning is not None:
        await context.learning.start(starting.result())
    context.set_tokenizer(tokenizer.result())
    gc.collect()
    gc.freeze()  # what is loaded stays: keep it out of every collection
    give_back_memory()  # and what reading it took can go
    announce(context.config, starting.result(), tokenizer.result().has_chat_template, time.monotonic() - begin)


def _tokenizer(model: str) -> Tokenizer:
    from paceline.models.sources import resolve_model
    from paceline.models.tokenizer import load_tokenizer

    return load_tokenizer(resolve_model(model).path)


def names_of(model: str, served_as: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What the model is called in answers, and behind it what clients may call it, too."""
    from paceline.models.sources import ALIASES, DEFAULT_MODEL

    if served_as:
        return served_as
    if not model.strip():
        return (DEFAULT_MODEL,)
    if model.lower() in ALIASES:
        return (model.lower(),)
    path = Path(model).expanduser()
    short = path.stem if path.suffix == ".gguf" else path.resolve().name if path.is_dir() else path.name
    names = (short, model) if path.exists() else (model, short)
    return tuple(dict.fromkeys(names))
