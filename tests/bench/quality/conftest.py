"""A tiny model with letters, digits and spaces in its vocabulary, and a context that holds the built-in tasks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny_tokenizer import save_tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_writer(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer") / "tiny"
    shutil.copytree(tiny_checkpoint("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 1024
    (folder / "config.json").write_text(json.dumps(config))
    save_tiny_tokenizer(folder)
    return folder
