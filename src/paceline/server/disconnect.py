"""Notices at once, and without polling, that the client of a request is gone, or that the server goes."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive

from paceline.server.context import ServerContext
from paceline.server.problems import ApiError


class ClientGoneError(Exception):
    """There is nobody to answer any more."""


class WhileConnected:
    """``async with WhileConnected(receive, context):`` cancels its body when the client closes the connection, and
    then raises ``ClientGoneError``; a cancellation by a server that shuts down becomes an ``ApiError``. To be entered
    when the request's body has been read: all that ``receive`` can still say is that the client is gone."""

    def __init__(self, receive: Receive, context: ServerContext) -> None:
        self._context = context
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._gone:
            self._watch.cancel()
            if isinstance(error, asyncio.CancelledError) and self._context.draining:
                self._task.uncancel()
                raise ApiError(503, "The server is shutting down.", code="shutting_down") from None
        elif isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise ClientGoneError from None
        else:  # it went away when the body had just ended: take the cancellation back
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self._task.uncancel()
