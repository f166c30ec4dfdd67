"""What the routes need from the engine.

They are written against this protocol only, so that tests drive them with a scripted engine and the engine process can
be replaced without touching HTTP code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from paceline.engine.messages import AdapterInfo, EngineReady, EngineStats, Request, SequenceDelta, SpeculatorInfo


class EngineClient(Protocol):
    """The engine, as seen from the server's event loop."""

    @property
    def ready(self) -> EngineReady | None:
        """What the engine said when the model was loaded; None before."""

    @property
    def dead(self) -> str | None:
        """Why the engine is gone for good; None while it lives (or is being restarted)."""

    @property
    def serving(self) -> bool:
        """Whether an engine process is computing now; False while one starts again."""

    @property
    def num_restarts(self) -> int:
        """Dead engine processes that were replaced."""

    @property
    def stats(self) -> EngineStats:
        """The newest statistics; counters go on over restarts."""

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """Adapters that requests may name."""

    async def load_adapter(self, name: str, path: str, replace: bool = False) -> AdapterInfo:
        """Loads the adapter in the folder ``path``, in place of one that has the name if ``replace``. Raises
        ``AdapterError`` or ``EngineDeadError``, with nothing changed."""

    async def unload_adapter(self, name: str) -> None:
        """Requests may not name it any more; those that run go on. Raises ``AdapterError`` or ``EngineDeadError``."""

    async def use_speculator(self, path: str | None) -> SpeculatorInfo | None:
        """The base model drafts with the speculator in the folder ``path`` (None: the one of the start) from now on.
        Raises ``ModelLoadError`` or ``EngineDeadError``, with nothing changed."""

    def generate(self, request: Request) -> AsyncGenerator[SequenceDelta, None]:
        """Deltas of all sequences of ``request`` until each has its ``finish_reason``. Closing the iterator early
        aborts the request. Raises ``OverloadedError`` (queue full) or ``EngineDeadError`` at the first step."""

    async def abort(self, request_id: str, index: int | None = None) -> None:
        """Ends one sequence, or all of the request; unknown ids are ignored."""

    async def close(self) -> None:
        """Stops the engine process."""
