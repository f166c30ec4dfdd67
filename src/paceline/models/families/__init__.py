"""The supported architectures, one line each: Hugging Face's ``model_type`` and the function that reads its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paceline.errors import ModelLoadError
from paceline.models.families.gemma import gemma2, gemma3, gemma3_text
from paceline.models.families.llama import granite, llama, mistral, olmo2, phi3, smollm3
from paceline.models.families.mixtral import mixtral
from paceline.models.families.qwen import qwen2, qwen3, qwen3_moe
from paceline.models.spec import ModelSpec

Family = Callable[[Mapping[str, Any], int | None], ModelSpec]

FAMILIES: dict[str, Family] = {
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3_text": gemma3_text,
    "granite": granite,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "olmo2": olmo2,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "smollm3": smollm3,
}


def model_spec(config: Mapping[str, Any], context_length: int | None = None) -> ModelSpec:
    """Describes a checkpoint from its Hugging Face ``config`` (of transformers 4 or 5).

    ``context_length`` is the context to serve, in tokens (None: the longest that the checkpoint supports); scalings
    of the rotary embedding that depend on the length are fixed for it. Raises ``ModelLoadError`` for an architecture
    or an option that is not supported.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        name = " ".join(config.get("architectures") or []) or "unknown"
        raise ModelLoadError(
            f"architecture {name} (model_type {config.get('model_type')!r}) is not supported; "
            f"supported model types: {', '.join(FAMILIES)}"
        )
    return family(config, context_length)
