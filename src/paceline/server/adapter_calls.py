"""Adapters of the engine process, as its client knows them: what may be named, and calls that wait for answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from paceline.engine.messages import AdapterInfo, AdapterReply, LoadAdapter, UnloadAdapter
from paceline.errors import AdapterError, EngineDeadError

logger = logging.getLogger(__name__)


class AdapterCalls:
    """One call a name at a time. ``known`` outlives an engine process: the next one is told of them by ``restore``."""

    def __init__(self) -> None:
        self.known: dict[str, AdapterInfo] = {}
        self._calls: dict[str, asyncio.Future[AdapterReply]] = {}
        self._restoring: set[str] = set()

    async def load(self, name: str, path: str, replace: bool, send: Callable[[LoadAdapter], None]) -> AdapterInfo:
        """Sends the message and waits for the answer. Raises ``AdapterError`` with the engine's words, and
        ``EngineDeadError`` when the engine ends on the way."""
        reply = await self._call(name, lambda: send(LoadAdapter(name=name, path=path, replace=replace)))
        assert reply.info is not None
        return reply.info

    async def unload(self, name: str, send: Callable[[UnloadAdapter], None]) -> None:
        """As ``load``."""
        await self._call(name, lambda: send(UnloadAdapter(name=name)))

    def restore(self, send: Callable[[LoadAdapter], None]) -> None:
        """Tells a new engine what its predecessor had."""
        self._restoring = set(self.known)
        for info in self.known.values():
            send(LoadAdapter(name=info.name, path=info.path, fingerprint=info.fingerprint))

    def take(self, replies: Sequence[AdapterReply]) -> None:
        """Answers from the engine."""
        for reply in replies:
            name = reply.name
            if name in self._restoring:  # nobody waits; what is known stays as it is, requests compare with it
                self._restoring.discard(name)
                if reply.error is not None:
                    logger.error("adapter %s is gone with the engine that had it: %s", name, reply.error)
                    del self.known[name]
                continue
            if reply.info is not None:
                self.known[name] = reply.info
            elif reply.error is None:
                self.known.pop(name, None)
            call = self._calls.pop(name, None)
            if call is not None and not call.done():  # else whoever asked is gone
                call.set_result(reply)

    def fail(self, why: str) -> None:
        """The engine ended: nobody answers."""
        self._restoring.clear()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.done():
                call.set_exception(EngineDeadError(why))

    async def _call(self, name: str, send: Callable[[], None]) -> AdapterReply:
        if name in self._calls or name in self._restoring:
            raise AdapterError(f"the adapter {name!r} is being loaded or unloaded; try again when it is")
        call: asyncio.Future[AdapterReply] = asyncio.get_running_loop().create_future()
        self._calls[name] = call
        send()
        reply = await call
        if reply.error is not None:
            raise AdapterError(reply.error)
        return reply
