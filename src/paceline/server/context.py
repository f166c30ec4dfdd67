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
from paceline.server.learning import Learning
from paceline.server.metrics import Metrics
from paceline.server.ports import EngineClient
from paceline.server.problems import ApiError, nearest

T = TypeVar("T")

_NAMES_SHOWN = 20  # of what is served, in an error

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
        self.learning: Learning | None = None
        self.metrics.learning = lambda: self.learning
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

    @property
    def served_names(self) -> list[str]:
        """What ``model`` may be in a request: the base model's names, and those of the adapters."""
        return [*self.config.model_names, *self.engine.adapters]

    def check_model(self, name: str | None) -> str | None:
        """The adapter that ``name`` names, None for the base model; no name means that, too. Refuses a name that is
        not served here."""
        if name is None or name in self.config.model_names:
            return None
        if name in self.engine.adapters:
            return name
        names = self.served_names
        shown = ", ".join(f"'{one}'" for one in names[:_NAMES_SHOWN])
        more = f" and {len(names) - _NAMES_SHOWN} more, see /v1/models" if len(names) > _NAMES_SHOWN else ""
        raise ApiError(
            404,
            f"The model '{name}' does not exist.{nearest(name, names)} This server has {shown}{more}.",
            param="model",
            code="model_not_found",
        )

    def adapter_of(self, model: str | None, adapter_id: str | None) -> str | None:
        """The adapter of a request that may name it in either field; None: the base model."""
        named = self.check_model(model)
        if adapter_id is None:
            return named
        if adapter_id not in self.engine.adapters:
            names = list(self.engine.adapters)
            have = ", ".join(f"'{one}'" for one in names[:_NAMES_SHOWN]) or "none"
            message = f"The adapter '{adapter_id}' does not exist.{nearest(adapter_id, names)} This server has {have}."
            raise ApiError(404, message, param="adapter_id", code="model_not_found")
        if named is not None and named != adapter_id:
            message = f"'model' and 'adapter_id' name two adapters, '{named}' and '{adapter_id}': send one of them."
            raise ApiError(400, message, param="adapter_id", code="invalid_value")
        return adapter_id


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """``work()``, in a thread when ``size`` (characters) says that it would hold up the event loop."""
    return work() if size <= INLINE_CHARACTERS else await asyncio.to_thread(work)
