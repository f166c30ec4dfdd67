"""Errors that a user sees. Each says what was wrong, the limit, and what to do."""

from __future__ import annotations


class PacelineError(Exception):
    """Base of every error raised on purpose."""


class InvalidRequestError(PacelineError, ValueError):
    """A request that can never be served as it is (HTTP 400). ``param`` names the offending field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ModelLoadError(PacelineError):
    """A model that cannot be found, fetched, read or is not supported."""


class AdapterError(PacelineError):
    """An adapter that cannot be read, is not supported or does not fit the model."""


class EngineDeadError(PacelineError):
    """The engine process is gone and does not come back (HTTP 503)."""


class OverloadedError(PacelineError):
    """The waiting queue is full (HTTP 429)."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
