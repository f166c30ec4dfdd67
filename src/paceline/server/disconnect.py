"""Notices at once, and without polling, that the client of a request is gone."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive


class ClientGoneError(Exception):
    """There is nobody to answer any more."""


class WhileConnected:
    """``async with WhileConnected(receive):`` cancels its body when the client closes the connection, and then raises
    ``ClientGoneError``. To be entered when the request's body has been read: all that ``receive`` can still say is
    that the client is gone."""

    def __init__(self, receive: Receive) -> None:
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
        elif isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise ClientGoneError from None
        else:  # it went away when the body had just ended: take the cancellation back
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self._task.uncancel()
