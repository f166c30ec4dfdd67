"""Configurations of well-known models, as their ``config.json`` has them, and machines with round figures."""

from __future__ import annotations

from typing import Any

from paceline.bench.plan.machines import Efficiency, Machine
from paceline.bench.plan.sizes import Format
from paceline.bench.roofline.work import Ceilings
from paceline.models.families import model_spec
from paceline.models.spec import ModelSpec

LLAMA_3_8B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
LLAMA_2_7B = {
    **LLAMA_3_8B,
    "vocab_size": 32000,
    "intermediate_size": 11008,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
LLAMA_2_70B = {
    **LLAMA_2_7B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
MIXTRAL_8X7B = {
    **LLAMA_3_8B,
    "model_type": "mixtral",
    "vocab_size": 32000,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32768,
}
GEMMA_3_1B: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": 262144,
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 32768,
}
QWEN_25_05B = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}

BF16 = Format("bf16", 16, "bf16", 16, "bf16")
FP8 = Format("fp8", 8, "fp8", 16, "bf16")


def spec_of(config: dict[str, Any]) -> ModelSpec:
    return model_spec(config)


def ideal_machine(memory: float, bandwidth: float = 1e12, rate: float = 1e15, **changes: Any) -> Machine:
    """A machine that reaches its ceilings and loses nothing besides."""
    values: dict[str, Any] = {
        "title": "an ideal machine",
        "memory": int(memory),
        "ceilings": Ceilings(bandwidth, dict.fromkeys(("bf16", "fp8", "int8"), rate)),
        "efficiency": Efficiency(((0, 1.0),), 1.0, 1.0, 1.0, 1.0, 0.0, 0.0),
        "chunk": 2048,
        "max_running": 64,
        "attention_arithmetic": "bf16",
        "cache_item": 2,
        "source": "made up",
    }
    return Machine(**{**values, **changes})
