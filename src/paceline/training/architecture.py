"""The size and the starting point of a speculator, from its target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from paceline.errors import ModelLoadError
from paceline.models.checkpoint import open_checkpoint
from paceline.models.spec import ModelSpec
from paceline.speculation.drafters.turbo_format import SpeculatorConfig, TargetMark

_EMBEDDINGS = ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight",
               "language_model.model.embed_tokens.weight", "embed_tokens.weight")  # fmt: skip
_HEADS = ("lm_head.weight", "language_model.lm_head.weight")


def default_layers(num_layers: int) -> tuple[int, ...]:
    """A low, a middle and a high layer (EAGLE-3, arXiv:2503.01840, section 3)."""
    return tuple(sorted({min(2, num_layers - 1), num_layers // 2, max(0, num_layers - 3)}))


def default_config(spec: ModelSpec, name: str, **wishes: Any) -> SpeculatorConfig:
    """One layer of the target's own shape; ``wishes`` replace fields."""
    config: Mapping[str, Any] = {
        "target": TargetMark.of(spec, name),
        "layers": default_layers(spec.num_layers),
        "positions": 6,
        "vocab_size": min(4096, spec.vocab_size),
        "markov_rank": 32,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size or 4 * spec.hidden_size,
        "num_heads": spec.num_heads,
        "num_kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "norm_eps": spec.norm_eps,
        **wishes,
    }
    made = SpeculatorConfig(**config)
    made.check()
    return made


def target_tables(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's embedding and head, float32 ``[vocabulary, hidden]``; one tensor where they are tied."""
    checkpoint = open_checkpoint(path)
    try:
        names = [next((name for name in group if name in checkpoint), None) for group in (_EMBEDDINGS, _HEADS)]
        if names[0] is None:
            raise ModelLoadError(f"{path} has no embedding table under any known name")
        embedding = checkpoint.get(names[0]).dequantize().clone()
        if names[1] is None or checkpoint.config.get("tie_word_embeddings"):
            return embedding, embedding
        return embedding, checkpoint.get(names[1]).dequantize().clone()
    finally:
        checkpoint.close()
