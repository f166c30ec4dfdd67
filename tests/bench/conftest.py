"""A tiny model that can be served: weights, tokenizer, and a context long enough for the scenarios."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer of letters and 512 tokens of context."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny_checkpoint("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 512
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz ?")}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    backend.save(str(folder / "tokenizer.json"))
    return folder
