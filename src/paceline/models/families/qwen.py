"""Qwen2, Qwen2.5, Qwen3 and Qwen3-MoE."""

from __future__ import annotations

from paceline.models.families.common import Config, ConfigReader, llama_like, uniform_layers
from paceline.models.spec import LayerSpec, ModelSpec, MoESpec


def qwen2(config: Config, context_length: int | None) -> ModelSpec:
    """Biases on q, k and v only."""
    reader = ConfigReader(config, context_length, window=4096)
    return llama_like(reader, _layers(reader), qkv_bias=True)


def qwen3(config: Config, context_length: int | None) -> ModelSpec:
    """Per-head norm on q and k."""
    reader = ConfigReader(config, context_length, head_dim=128, window=4096)
    bias = bool(reader.get("attention_bias", False))
    return llama_like(reader, _layers(reader), qk_norm="per_head", qkv_bias=bias, output_bias=bias)


def qwen3_moe(config: Config, context_length: int | None) -> ModelSpec:
    """Qwen3 with experts, except in layers that the config keeps dense."""
    reader = ConfigReader(config, context_length, window=4096)
    experts = MoESpec(
        num_experts=int(reader.get("num_experts", reader.get("num_local_experts", 128))),
        top_k=int(reader.get("num_experts_per_tok", 8)),
        intermediate_size=reader.size("moe_intermediate_size"),
        normalize=bool(reader.get("norm_topk_prob", False)),
    )
    step, dense = int(reader.get("decoder_sparse_step", 1)), reader.get("mlp_only_layers", [])
    moe = [experts if i not in dense and (i + 1) % step == 0 else None for i in range(reader.num_layers)]
    slides = bool(reader.get("use_sliding_window", False))
    bias = bool(reader.get("attention_bias", False))
    layers = uniform_layers(reader, [slides] * reader.num_layers, moe)
    return llama_like(reader, layers, qk_norm="per_head", qkv_bias=bias, output_bias=bias)


def _layers(reader: ConfigReader) -> list[LayerSpec]:
    """The upper layers slide, if any do."""
    first = int(reader.get("max_window_layers", 28))
    slides = bool(reader.get("use_sliding_window", False))
    upper = reader.sliding_layers([i >= first for i in range(reader.num_layers)])
    return uniform_layers(reader, [slides and layer for layer in upper])
