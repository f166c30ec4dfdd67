"""Backends by name. A member is one line; its module is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from paceline.backends.base import Backend
from paceline.errors import PacelineError

BACKENDS = {
    "cpu": "paceline.backends.cpu.backend:CpuBackend",
    "torch": "paceline.backends.torch_backend:TorchBackend",
}


def get_backend(name: str, **options: Any) -> Backend:
    """The backend called ``name``; ``options`` go to its constructor. Raises ``PacelineError`` when there is none of
    that name, or when it cannot be imported here (a C++ core that was not built)."""
    if name not in BACKENDS:
        raise PacelineError(f"there is no backend {name!r}; choose one of {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    try:
        backend = getattr(import_module(module), attribute)
    except ImportError as error:
        raise PacelineError(f"the backend {name!r} is not available in this installation: {error}") from error
    return cast(Backend, backend(**options))
