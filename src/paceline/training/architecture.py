"""The size and the starting point of a speculator, from its target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paceline.errors import ModelLoadError
from paceline.models.checkpoint import open_checkpoint
from paceline.models.families import model_spec
from paceline.models.spec import ModelSpec
from paceline.speculation.drafters.turbo_format import SpeculatorConfig, TargetMark

#: Where checkpoints put the decoder, and the head beside it (see ``models/loading.py``).
_DECODERS = ("model.", "model.language_model.", "language_model.model.", "")
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


@dataclass(frozen=True, slots=True)
class TargetTables:
    """What a speculator takes over from its target: float32 ``embedding`` and ``head`` ``[vocabulary, hidden]`` (one
    tensor where they are tied) and the gain of its last norm ``[hidden]``."""

    embedding: torch.Tensor
    head: torch.Tensor
    final_norm: torch.Tensor


def target_tables(path: Path) -> TargetTables:
    """The tables of the checkpoint at ``path``. Raises ``ModelLoadError`` where it has none under a known name."""
    checkpoint = open_checkpoint(path)
    try:
        spec = model_spec(checkpoint.config)
        names = spec.names
        decoder = next((at for at in _DECODERS if f"{at}{names.embedding}.weight" in checkpoint), None)
        if decoder is None:
            raise ModelLoadError(f"{path} has no embedding table under any known name")
        embedding = checkpoint.get(f"{decoder}{names.embedding}.weight").dequantize().clone()
        norm = checkpoint.get_tensor(f"{decoder}{names.final_norm}.weight") + spec.norm_offset
        found = next((name for name in _HEADS if name in checkpoint), None)
        tied = spec.tied_head or found is None
        head = embedding if tied or found is None else checkpoint.get(found).dequantize().clone()
        return TargetTables(embedding, head, norm)
    finally:
        checkpoint.close()
