"""The HTTP server: uvicorn with a drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Generator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from paceline.server.context import ServerContext

logger = logging.getLogger("paceline.server")

KEEP_ALIVE_S = 65  # longer than the idle time of usual load balancers, so that they close first


class HttpServer(uvicorn.Server):
    """The first SIGTERM or SIGINT closes the port and lets open calls end; the second one does not wait for them."""

    def __init__(self, context: ServerContext, app: FastAPI) -> None:
        config = context.config
        super().__init__(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=config.access_log,
                log_config=None,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._context = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signals: drain, then leave at once."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self._context.draining = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Unlike uvicorn's own, does not raise the signals again when all is done: the engine is still to be closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, waits for open calls up to the drain timeout, then ends them with an error."""
        self._context.draining = True
        drain_s = self._context.config.drain_timeout_s
        if self.server_state.tasks:
            logger.info("draining: %d open calls have up to %g s to end", len(self.server_state.tasks), drain_s)
        draining = asyncio.ensure_future(super().shutdown(sockets))
        done, _ = await asyncio.wait((draining,), timeout=drain_s)
        if not done or self.force_exit:
            await self._end_open_calls()
        await draining

    async def _end_open_calls(self) -> None:
        self.force_exit = True
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
