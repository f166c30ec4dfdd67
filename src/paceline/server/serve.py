"""The server process: one event loop with the HTTP server and the engine client.

The engine process is started before anything slow is imported here, and the HTTP port answers while it loads.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from paceline.server.context import ServerContext

logger = logging.getLogger("paceline.server")

KEEP_ALIVE_S = 65  # longer than the idle time of usual load balancers, so that they close first
BACKLOG = 2048


class HttpServer(uvicorn.Server):
    """uvicorn with a drain: the first SIGTERM or SIGINT lets open requests end, the second one does not."""

    def __init__(self, context: ServerContext, app: FastAPI) -> None:
        config = context.config
        super().__init__(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=config.access_log,
                log_config=None,
                server_header=False,
                date_header=False,
                backlog=BACKLOG,
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, waits for open requests up to the drain timeout, then ends them."""
        self._context.draining = True
        drain_s = self._context.config.drain_timeout_s
        open_calls = len(self.server_state.tasks)
        if open_calls:
            logger.info("draining: %d open calls have up to %g s to end", open_calls, drain_s)
        self.config.timeout_graceful_shutdown = None
        draining = asyncio.ensure_future(super().shutdown(sockets))
        done, _ = await asyncio.wait((draining,), timeout=drain_s)
        if not done or self.force_exit:
            await self._end_open_calls()
        await draining

    async def _end_open_calls(self) -> None:
        """Cancels what is still open: each call ends with an error that its client sees."""
        self.force_exit = True
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.sleep(0)


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
