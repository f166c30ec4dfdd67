"""Builds an engine from its options: finds the model, picks the backend, loads, says what was chosen and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from paceline.adapters.peft import read_adapter
from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.engine import machine
from paceline.engine.adapter_reading import AdapterReader
from paceline.engine.config import EngineConfig, Machine, resolve
from paceline.engine.engine import Engine
from paceline.engine.messages import AdapterInfo, Choice, EngineReady
from paceline.engine.options import EngineOptions
from paceline.errors import AdapterError, PacelineError
from paceline.kv.sizing import cache_bytes
from paceline.models.loading import LoadedModel, load_model
from paceline.models.sources import resolve_model
from paceline.models.tokenizer import ids_of
from paceline.speculation.controller import Controller
from paceline.speculation.costs import StepCosts
from paceline.speculation.drafters.model_loading import Target
from paceline.speculation.drafters.registry import open_drafters
from paceline.speculation.drafters.turbo_speculators import TurboSpeculators
from paceline.speculation.options import OFF


def build_in_own_process(options: EngineOptions) -> tuple[Engine, EngineReady]:
    """``build_engine`` where torch's threads are ours to set."""
    return build_engine(options, own_process=True)


def build_engine(options: EngineOptions, own_process: bool = False) -> tuple[Engine, EngineReady]:
    """Loads the model that ``options`` name. Raises ``ModelLoadError`` for a model that cannot be found or loaded,
    ``InvalidRequestError`` for a setting that cannot be met."""
    options.speculation.validate()  # a mistake there should not wait for a model to be fetched and loaded
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
    dtype = config.kv_cache_dtype
    why = "as configured" if dtype else "attention is fastest with it here"
    choices.append(Choice("kv_cache_dtype", dtype or backend.cache_dtype, why))
    limits = Machine(machine.free_memory(), machine.usable_cores())
    controller, reasons = open_controller(config, model, path, backend, limits)
    speculators = None if controller is None else controller.drafter(TurboSpeculators)
    read_lora = partial(read_adapter, shapes=model.adapter_shapes, base=source.name)
    engine = Engine(
        model,
        backend,
        config,
        eos_ids=eos_ids(path, model.config),
        controller=controller,
        limits=limits,
        read_adapter=AdapterReader(read_lora, None if speculators is None else speculators.open),
        speculators=speculators,
        exchangeable=speculators,
    )
    if controller is not None:
        controller.costs = engine.time_steps()
        reasons.append(cost_choice(controller.costs))
    if options.adapters:
        choices.append(load_adapters(engine, options.adapters))
    ready = EngineReady(
        model=source.name,
        path=str(path),
        backend=backend.name,
        context_length=engine.context_length,
        vocab_size=model.spec.vocab_size,
        max_queue=engine.config.max_queue,
        max_running=engine.config.max_running,
        choices=[*choices, *engine.choices, *reasons],
        drafters=list(engine.drafter_names),
        adapters=engine.adapters.infos(),
        speculator=None if speculators is None or speculators.folder is None else str(speculators.folder),
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


def open_controller(
    config: EngineConfig, model: LoadedModel, path: Path, backend: Backend, limits: Machine
) -> tuple[Controller | None, list[Choice]]:
    """The controller with the drafters that the options ask for, and why these. None: speculation is off."""
    wishes = config.speculation
    if wishes.speculate == OFF:
        return None, [Choice("speculation", "off", "as configured")]
    cache = model.spec.cache_spec(config.kv_cache_dtype or backend.cache_dtype)
    resolved, _ = resolve(config, cache, model.spec.context_length, limits, model.weights_bytes)
    target = Target(
        path=path,
        vocab_size=model.spec.vocab_size,
        context_length=resolved.context_length,
        cache_tokens=max(resolved.num_blocks) * cache.block_size,
        cache_bytes=cache_bytes(cache, resolved.num_blocks),
        max_sequences=resolved.max_running,
        model=model,
    )
    made = list(open_drafters(wishes, target, backend))
    controller = Controller([drafter for _, (drafter, _) in made], coupled=wishes.sampling == "coupled")
    return controller, [Choice(f"drafter {name}", "on", reason) for name, (_, reason) in made]


def load_adapters(engine: Engine, adapters: Mapping[str, str]) -> Choice:
    """Loads adapters and waits for them. Raises ``AdapterError`` for the first that cannot be used."""
    for name, path in adapters.items():
        engine.load_adapter(name, path)
    while engine.adapters.busy:
        for reply in engine.step().replies:
            if reply.error is not None:
                raise AdapterError(reply.error)
    slots = engine.adapters.num_slots
    names = ", ".join(f"{info.name} ({described(info)})" for info in engine.adapters.infos())
    return Choice(
        "adapters", names, f"at most {slots} of them in one step; others are loaded when a request needs them"
    )


def described(info: AdapterInfo) -> str:
    """Kind and size of an adapter, for the report at start."""
    size = f"{info.nbytes / 2**20:.1f} MiB"
    if info.speculator is None:
        return f"{info.kind}, {size}"
    own = info.speculator
    return f"{info.kind}, {size}, {own.nbytes / 2**20:.1f} of it to draft {own.positions} tokens a pass"


def cost_choice(costs: StepCosts) -> Choice:
    """What the machine says about speculation, for the banner."""
    one = costs.seconds(1)
    ratios = ", ".join(f"{rows} rows {costs.seconds(rows) / one:.2f} x" for rows in (2, 4, 8, 16, 32))
    return Choice("draft length", "decided in every step", f"measured, against one row ({one * 1e3:.1f} ms): {ratios}")
