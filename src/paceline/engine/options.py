"""What the user may set about the engine, in a form that crosses the process boundary (and needs no torch)."""

from __future__ import annotations

from typing import Literal

import msgspec

from paceline.speculation.options import SpeculationOptions

#: Builds the engine from its options; a name, so that it can be told to another process.
ENGINE_FACTORY = "paceline.engine.factory:build_in_own_process"


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Model, backend and the wishes of ``EngineConfig``; None: chosen for the model and the machine."""

    model: str = ""  # folder, .gguf file, Hub id or alias; "": the default model
    backend: str = "auto"
    context_length: int | None = None  # most tokens of one sequence, prompt and output
    kv_cache_bytes: int | None = None  # memory of the KV cache
    kv_blocks: int | None = None  # blocks in every cache group; overrides kv_cache_bytes
    max_rows: int | None = None  # most rows (tokens) of one step
    max_running: int | None = None  # most sequences in one step
    max_queue: int | None = None  # most waiting sequences before new requests are refused
    threads: int | None = None  # compute threads
    prefix_cache: bool = True
    kv_cache_dtype: Literal["f32", "f16", "bf16"] | None = None
    max_adapters: int | None = None  # most different adapters in one step; None: as many as the backend can
    adapter_cache_bytes: int | None = None  # host memory for copies of adapters that are in no slot
    adapters: dict[str, str] = msgspec.field(default_factory=dict)  # names and folders, loaded at the start
    speculation: SpeculationOptions = SpeculationOptions()
