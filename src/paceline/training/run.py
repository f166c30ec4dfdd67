"""What every stage of a training needs to know: the model, the rows, and the sizes that follow from them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import torch

from paceline.adapters.peft import WEIGHTS_FILE
from paceline.adapters.peft_config import CONFIG_FILE
from paceline.engine.factory import eos_ids
from paceline.engine.machine import usable_cores
from paceline.errors import InvalidRequestError
from paceline.llm import LLM
from paceline.models.checkpoint import open_checkpoint
from paceline.models.families import model_spec
from paceline.models.sources import ModelSource, resolve_model
from paceline.models.spec import ModelSpec
from paceline.models.tokenizer import load_tokenizer
from paceline.training.data import Example, data_digest, load_examples
from paceline.training.lora_model import require_peft
from paceline.training.settings import TrainSettings
from paceline.training.start import Parent, find_parent

UNKNOWN_ANSWER = 256  # tokens, where no row has an answer to tell by
ROOM = 32  # tokens that an answer may be longer than half as long again as the longest known one


@dataclass(frozen=True, slots=True)
class Run:
    """``identity``: everything that the result depends on. ``answer_tokens``: most tokens of an answer that the model
    writes. ``parent``: the speculator that its own starts from."""

    settings: TrainSettings
    source: ModelSource
    spec: ModelSpec
    examples: list[Example]
    answer_tokens: int
    device: torch.device
    parent: Parent | None
    identity: dict[str, Any]

    @property
    def version(self) -> str:
        try:
            return installed_version("paceline")
        except PackageNotFoundError:
            return "from a checkout"

    @property
    def threads(self) -> int:
        return self.settings.threads or usable_cores()

    def open_llm(self, **options: Any) -> LLM:
        """The engine that answers."""
        return LLM(str(self.source.path), backend=self.settings.backend, threads=self.settings.threads, **options)


def prepare(settings: TrainSettings) -> Run:
    """Finds the model and reads the rows. Raises what is wrong with either."""
    if settings.trains_adapter:
        require_peft()
    device = training_device(settings.device)
    source = resolve_model(settings.model)
    tokenizer = load_tokenizer(source.path)
    checkpoint = open_checkpoint(source.path)
    try:
        config = checkpoint.config
        spec = model_spec(config)
    finally:
        checkpoint.close()
    if settings.max_length is not None and settings.max_length > spec.max_context:
        raise InvalidRequestError(
            f"max_length {settings.max_length} is above the model's context of {spec.max_context} tokens",
            param="max_length",
        )
    examples = load_examples(
        settings.data,
        tokenizer,
        eos_ids(source.path, config) | tokenizer.eos_token_ids,
        settings.max_length or spec.max_context,
        answers=settings.trains_adapter,
    )
    torch.set_num_threads(settings.threads or usable_cores())
    parent = find_parent(settings.speculator.start, spec, source.path) if settings.trains_speculator else None
    return Run(
        settings, source, spec, examples, _answer_tokens(settings, examples), device, parent,
        _identity(settings, source, parent),
    )  # fmt: skip


def training_device(wish: str) -> torch.device:
    """The device of the training itself. Raises ``InvalidRequestError`` where there is none."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise InvalidRequestError("device is cuda, but torch sees no GPU here", param="device")
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")


def _answer_tokens(settings: TrainSettings, examples: list[Example]) -> int:
    if settings.speculator.max_new_tokens is not None:
        return settings.speculator.max_new_tokens
    known = [len(example.answer_ids) for example in examples if example.answer_ids is not None]
    return max(known) * 3 // 2 + ROOM if known else UNKNOWN_ANSWER


def _identity(settings: TrainSettings, source: ModelSource, parent: Parent | None) -> dict[str, Any]:
    identity: dict[str, Any] = {
        "kind": settings.kind,
        "model": source.name,
        "model_bytes": _size(source.path),
        "data_digest": data_digest(settings.data),
        "max_length": settings.max_length,
        "held_out": settings.held_out,
        "seed": settings.seed,
        "precision": settings.precision,
    }
    if settings.trains_adapter:
        identity["lora"] = asdict(settings.lora)
    if settings.trains_speculator:
        identity["speculator"] = asdict(settings.speculator) | {"start": "none" if parent is None else parent.name}
    if settings.adapter is not None:
        identity["adapter_digest"] = _adapter_digest(settings.adapter)
    return identity


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.suffix == ".safetensors"]
    return sum(file.stat().st_size for file in files)


def _adapter_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise InvalidRequestError(
                f"{folder} is not an adapter: {error.strerror}: {name}", param="adapter"
            ) from None
    return digest.hexdigest()
