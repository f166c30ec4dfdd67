"""Tiny random models with quantized weights: every kind of layer and of weight that the native backend has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from cpu_programs import dense, noise, quantized

from paceline.quantization.packed import PackedWeight

VOCABULARY = 61
WINDOW = 20

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}

#: What differs: odd head sizes and biases; soft caps, local layers and norms on both sides; experts in local layers;
#: queries and keys normed over all heads at once.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "head_dim": 24, "attention_bias": True},
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 32,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 4.0,
        "final_logit_softcapping": 6.0,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    "olmo2": {"model_type": "olmo2", "num_attention_heads": 6},
}

_LAYOUTS: dict[str, Callable[[int, int, int], PackedWeight]] = {
    "embed_tokens": lambda rows, columns, seed: quantized("q8", rows, columns, seed=seed),
    "lm_head": lambda rows, columns, seed: quantized("q8", rows, columns, group=16, seed=seed),
    "q_proj": lambda rows, columns, seed: quantized("q4", rows, columns, minima=True, seed=seed),
    "k_proj": lambda rows, columns, seed: quantized("q8", rows, columns, scales=torch.float32, seed=seed),
    "v_proj": lambda rows, columns, seed: dense(noise(rows, columns, seed=seed) / columns**0.5, "bf16"),
    "o_proj": lambda rows, columns, seed: quantized("q4", rows, columns, seed=seed),
    "gate_proj": lambda rows, columns, seed: quantized("q4", rows, columns, seed=seed),
    "up_proj": lambda rows, columns, seed: quantized("q8", rows, columns, group=16, seed=seed),
    "down_proj": lambda rows, columns, seed: quantized("q8", rows, columns, minima=True, seed=seed),
    "gate": lambda rows, columns, seed: dense(noise(rows, columns, seed=seed) / 5),
}
_EXPERT_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


class RandomCheckpoint:
    """A checkpoint that makes every tensor it is asked for. ``poison``: a token whose embedding is not a number."""

    def __init__(self, name: str, poison: int | None = None) -> None:
        self.config = {**_COMMON, **CONFIGS[name]}
        self.poison = poison
        if poison is not None:
            self.config["tie_word_embeddings"] = False

    def names(self) -> Iterable[str]:
        return ()

    def __contains__(self, name: object) -> bool:
        return True

    def close(self) -> None:
        pass

    def get(self, name: str) -> PackedWeight:
        part = name.split(".")[-2]
        part = _EXPERT_NAMES.get(part, part)
        seed = sum(map(ord, name))
        if part == "embed_tokens" and self.poison is not None:
            table = _LAYOUTS[part](*self._shape(part), seed).dequantize()
            table[self.poison] = float("nan")
            return dense(table)
        return _LAYOUTS[part](*self._shape(part), seed)

    def get_tensor(self, name: str) -> torch.Tensor:
        part, kind = name.split(".")[-2:]
        width = self._shape(part)[0] if part.endswith("_proj") else self._norm_width(part)
        offset = 1.0 if kind == "weight" and "gemma" not in self.config["model_type"] else 0.0
        return offset + 0.2 * noise(width, seed=sum(map(ord, name)))

    def _shape(self, part: str) -> tuple[int, int]:
        config, hidden, inner = self.config, self.config["hidden_size"], self.config["intermediate_size"]
        heads = config.get("head_dim", hidden // config["num_attention_heads"])
        queries, keys = heads * config["num_attention_heads"], heads * config["num_key_value_heads"]
        return {
            "embed_tokens": (config["vocab_size"], hidden),
            "lm_head": (config["vocab_size"], hidden),
            "q_proj": (queries, hidden),
            "k_proj": (keys, hidden),
            "v_proj": (keys, hidden),
            "o_proj": (hidden, queries),
            "gate_proj": (inner, hidden),
            "up_proj": (inner, hidden),
            "down_proj": (hidden, inner),
            "gate": (config.get("num_local_experts", 0), hidden),
        }[part]

    def _norm_width(self, part: str) -> int:
        return {"q_norm": self._shape("q_proj")[0], "k_norm": self._shape("k_proj")[0]}.get(
            part, self.config["hidden_size"]
        )
