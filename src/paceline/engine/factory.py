"""Builds an engine from its options: finds the model, picks the backend, loads, says what was chosen and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.engine import machine
from paceline.engine.config import EngineConfig
from paceline.engine.engine import Engine
from paceline.engine.messages import Choice, EngineReady
from paceline.engine.options import EngineOptions
from paceline.errors import PacelineError
from paceline.models.loading import load_model
from paceline.models.sources import resolve_model
from paceline.models.tokenizer import ids_of


def build_in_own_process(options: EngineOptions) -> tuple[Engine, EngineReady]:
    """``build_engine`` where torch's threads are ours to set."""
    return build_engine(options, own_process=True)


def build_engine(options: EngineOptions, own_process: bool = False) -> tuple[Engine, EngineReady]:
    """Loads the model that ``options`` name. Raises ``ModelLoadError`` for a model that cannot be found or loaded,
    ``InvalidRequestError`` for a setting that cannot be met."""
    source = resolve_model(options.model)
    path, choices = source.path, [Choice("model", source.name, source.reason)]
    threads = options.threads or machine.usable_cores()
    backend, reason = open_backend(options.backend, threads)
    choices.append(Choice("backend", backend.name, reason))
    if own_process:
        # The native backend has a thread team of its own, beside which torch's would only take its cores.
        torch.set_num_threads(1 if backend.name == "cpu" else threads)
    model = load_model(path, backend, context_length=options.context_length)
    config = EngineConfig(**{field.name: getattr(options, field.name) for field in fields(EngineConfig)})
    engine = Engine(model, backend, config, eos_ids=eos_ids(path, model.config))
    ready = EngineReady(
        model=source.name,
        path=str(path),
        backend=backend.name,
        context_length=engine.context_length,
        vocab_size=model.spec.vocab_size,
        max_queue=engine.config.max_queue,
        max_running=engine.config.max_running,
        choices=[*choices, *engine.choices],
    )
    return engine, ready


def open_backend(wish: str, threads: int) -> tuple[Backend, str]:
    """A backend, and why this one. "auto" is the native one wherever it runs."""
    if wish == "torch":
        return get_backend("torch"), "as configured"
    if wish != "auto":
        return get_backend(wish, threads=threads), "as configured"
    try:
        return get_backend("cpu", threads=threads), "the native backend runs on this processor"
    except PacelineError as error:
        return get_backend("torch"), f"the native backend cannot be used: {error}"


def eos_ids(path: Path, config: Mapping[str, Any]) -> frozenset[int]:
    """Tokens that end a sequence. A folder's config and generation config may name different ones: all count."""
    generation = path / "generation_config.json"
    configs = [config, json.loads(generation.read_text()) if generation.is_file() else {}]
    return frozenset(token for part in configs for token in ids_of(part.get("eos_token_id")))
