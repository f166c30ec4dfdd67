"""Reference logits from transformers, and the backends that have to reproduce them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.errors import PacelineError

if TYPE_CHECKING:
    from default_model_speculation import Target
    from transformers_reference import Reference

BACKENDS = ["torch", "cpu"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that this installation has."""
    try:
        return get_backend(request.param)
    except PacelineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def reference(tiny_checkpoint: Callable[[str], Path]) -> Callable[[str], Reference]:
    """Makes a variant's reference once a session."""
    from transformers_reference import make_reference

    made: dict[str, Reference] = {}

    def make(variant: str) -> Reference:
        if variant not in made:
            made[variant] = make_reference(variant, tiny_checkpoint(variant))
        return made[variant]

    return make


@pytest.fixture(scope="session")
def target(default_model: Path) -> Target:
    """The default model on the cpu backend, loaded once for all that speculates on it."""
    from default_model_speculation import Target

    return Target(default_model)
