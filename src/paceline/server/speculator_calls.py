"""The base model's speculator in the engine process, as its client knows it: which one, and calls that wait."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from paceline.engine.messages import SpeculatorInfo, SpeculatorReply, UseSpeculator
from paceline.errors import EngineDeadError, ModelLoadError

logger = logging.getLogger(__name__)

_Call = asyncio.Future[SpeculatorReply]


class SpeculatorCalls:
    """``path``: of the speculator in use, None: the one of the start. It outlives an engine process: the next one is
    told by ``restore``."""

    def __init__(self) -> None:
        self.path: str | None = None
        self._waiting: deque[tuple[str | None, _Call | None]] = deque()  # as sent; no call: nobody waits

    async def use(self, path: str | None, send: Callable[[UseSpeculator], None]) -> SpeculatorInfo | None:
        """Sends the message and waits for the answer. Raises ``ModelLoadError`` with the engine's words, and
        ``EngineDeadError`` when the engine ends on the way; nothing has changed then."""
        call: _Call = asyncio.get_running_loop().create_future()
        self._waiting.append((path, call))
        send(UseSpeculator(path=path))
        reply = await asyncio.shield(call)
        if reply.error is not None:
            raise ModelLoadError(reply.error)
        return reply.info

    def restore(self, send: Callable[[UseSpeculator], None]) -> None:
        """Tells a new engine what its predecessor had."""
        if self.path is not None:
            self._waiting.append((self.path, None))
            send(UseSpeculator(path=self.path))

    def take(self, replies: Sequence[SpeculatorReply]) -> None:
        """Answers from the engine."""
        for reply in replies:
            path, call = self._waiting.popleft()
            if reply.error is None:
                self.path = path
            if call is None:
                if reply.error is not None:
                    logger.error("the speculator %s is gone with the engine that had it: %s", self.path, reply.error)
            elif not call.done():
                call.set_result(reply)

    def fail(self, why: str) -> None:
        """The engine ended: nobody answers."""
        waiting, self._waiting = self._waiting, deque()
        for _, call in waiting:
            if call is not None and not call.done():
                call.set_exception(EngineDeadError(why))
