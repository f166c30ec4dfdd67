"""Fixtures shared by the whole suite. Helpers beside this file (``tiny_models``, ``paged_runner``) are importable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

#: Makes a tiny model of a variant of ``tiny_models.CONFIGS`` once a session and gives its folder.
TinyCheckpoint = Callable[[str], Path]


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """Tiny tensors gain nothing from threads, and the machine may have other things to do."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    """A folder with ``config.json`` and safetensors of a tiny random model."""
    folders: dict[str, Path] = {}

    def make(variant: str) -> Path:
        if variant not in folders:
            from tiny_models import save_tiny_model

            folders[variant] = tmp_path_factory.mktemp(variant)
            save_tiny_model(variant, folders[variant])
        return folders[variant]

    return make


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default model's file; tests that need it are marked ``model``."""
    from paceline.errors import ModelLoadError
    from paceline.models.sources import DEFAULT_MODEL, resolve_model

    try:
        return resolve_model(DEFAULT_MODEL).path
    except ModelLoadError as error:
        pytest.skip(f"the default model is not here: {error}")
