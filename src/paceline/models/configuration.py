"""A model's configuration without its weights: what is needed to say how large it is and what it will cost.

Of a model on the Hub only ``config.json`` is fetched, of a GGUF file only the header is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from paceline.errors import ModelLoadError
from paceline.models.checkpoint_files import read_json
from paceline.models.sources import ALIASES, HUB_FILE, HUB_ID, hub_file, resolve_model


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a GGUF file: how many numbers, and in which of the file's types."""

    parameters: int
    type_id: int
    dimensions: int


@dataclass(frozen=True, slots=True)
class Configuration:
    """``config``: the content of a Hugging Face ``config.json``. ``name``: what to call the model; ``reason``: where
    the configuration comes from. ``tensors``: by the file's own names; empty for anything but a GGUF file."""

    config: dict[str, Any]
    name: str
    reason: str
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)


def read_configuration(name: str | None = None) -> Configuration:
    """The configuration of a model that ``resolve_model`` would find: a folder, a ``.gguf`` file, an alias, a Hub id,
    or None for the default model; or a ``config.json`` by its path.

    Raises ``ModelLoadError`` that says where it looked and what to do."""
    path = Path(name or "").expanduser()
    here = not name or name.lower() in ALIASES or path.exists()
    if path.suffix == ".json" and path.is_file():
        return Configuration(read_json(path), path.resolve().parent.name, "a file on this machine")
    if not here and name and HUB_FILE.fullmatch(name):
        raise ModelLoadError(
            f"{name} is a file on the Hub, of which the header cannot be read from here: name its original "
            "repository (org/name), or fetch the file and give its path"
        )
    if not here and name and HUB_ID.fullmatch(name):
        return _from_hub(name)
    source = resolve_model(name)
    if source.path.is_dir():
        return Configuration(read_json(source.path / "config.json"), source.name, source.reason)
    return _from_gguf(source.path, source.name, source.reason)


def _from_gguf(path: Path, name: str, reason: str) -> Configuration:
    from paceline.models.checkpoint_gguf import GgufCheckpoint
    from paceline.quantization.gguf_file import GgufFile

    checkpoint = GgufCheckpoint(path)  # maps the file and reads its header
    try:
        config = dict(checkpoint.config)
    finally:
        checkpoint.close()
    with GgufFile(path, strings=False) as file:
        tensors = {
            tensor.name: StoredTensor(prod(tensor.shape), tensor.type_id, len(tensor.shape))
            for tensor in file.tensors.values()
        }
    return Configuration(config, name, reason, tensors)


def _from_hub(repository: str) -> Configuration:
    source = hub_file(repository, "config.json")
    return Configuration(read_json(source.path), repository.rsplit("/", 1)[1], source.reason)
