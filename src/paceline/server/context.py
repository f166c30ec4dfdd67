"""What every route needs, in one object."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from paceline.engine.detokenizer import TokenBytes
from paceline.engine.messages import EngineReady
from paceline.models.tokenizer import Tokenizer
from paceline.server.config import ServerConfig
from paceline.server.metrics import Metrics
from paceline.server.ports import EngineClient
from paceline.server.problems import ApiError, nearest

T = TypeVar("T")

INLINE_CHARACTERS = (
    4000  # a prompt up to this long is tokenized at once, within a millisecond; a longer one in a thread
)


class ServerContext:
    """The server's state. Until the tokenizer is set and the engine is ready, requests are refused with 503."""

    def __init__(self, config: ServerConfig, engine: EngineClient) -> None:
        self.config = config
        self.engine = engine
        self.metrics = Metrics(config.model_names[0])
        self.metrics.stats = lambda: engine.stats
        self.metrics.up = lambda: engine.serving
        self.metrics.restarts = lambda: engine.num_restarts
        self._tokenizer: Tokenizer | None = None
        self._token_bytes: TokenBytes | None = None
        self.created = int(time.time())
        self.draining = False

    def set_tokenizer(self, tokenizer: Tokenizer) -> None:
        """From now on texts can be served."""
        self._tokenizer = tokenizer
        self._token_bytes = TokenBytes(tokenizer.backend, tokenizer.special_ids)

    @property
    def model_name(self) -> str:
        return self.config.model_names[0]

    def unready(self) -> ApiError | None:
        """Why requests cannot be served now; None when they can."""
        if self.draining:
            return ApiError(503, "The server is shutting down.", code="shutting_down")
        if self.engine.dead is not None:
            return ApiError(503, self.engine.dead, code="engine_dead")
        if self.engine.ready is None or self._tokenizer is None:
            retry = {"Retry-After": "1"}
            return ApiError(503, "The model is still loading; try again in a moment.", code="loading", headers=retry)
        return None

    def loaded(self) -> tuple[EngineReady, Tokenizer, TokenBytes]:
        """What the engine said of the model, its tokenizer and token table. Raises ``ApiError`` (503) if not yet."""
        problem = self.unready()
        if problem is not None:
            raise problem
        assert self.engine.ready is not None and self._tokenizer is not None and self._token_bytes is not None
        return self.engine.ready, self._tokenizer, self._token_bytes

    def check_model(self, name: str | None) -> None:
        """Refuses a model that is not served here; no name means the one that is."""
        names = self.config.model_names
        if name is not None and name not in names:
            hint = nearest(name, names) or f" This server has '{names[0]}'."
            raise ApiError(404, f"The model '{name}' does not exist.{hint}", param="model", code="model_not_found")


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """``work()``, in a thread when ``size`` (characters) says that it would hold up the event loop."""
    return work() if size <= INLINE_CHARACTERS else await asyncio.to_thread(work)
