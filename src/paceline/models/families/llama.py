"""Families with Llama's layout and small differences: Llama, SmolLM3, Mistral, Phi-3, OLMo-2, Granite."""

from __future__ import annotations

from paceline.models.families.common import Config, ConfigReader, llama_like, uniform_layers
from paceline.models.spec import LayerSpec, ModelSpec, TensorNames


def llama(config: Config, context_length: int | None) -> ModelSpec:
    """Llama 2 and 3.x, SmolLM2 and every model that calls itself ``llama``."""
    reader = ConfigReader(config, context_length)
    reader.refuse("mlp_bias", "a bias in the MLP")
    bias = bool(reader.get("attention_bias", False))
    return llama_like(reader, qkv_bias=bias, output_bias=bias)


def smollm3(config: Config, context_length: int | None) -> ModelSpec:
    """Every fourth layer has no rotation (NoPE)."""
    reader = ConfigReader(config, context_length, theta=2_000_000.0)
    reader.refuse("mlp_bias", "a bias in the MLP")
    interval = int(reader.get("no_rope_layer_interval", 4))
    rotates = reader.get("no_rope_layers", [(i + 1) % interval != 0 for i in range(reader.num_layers)])
    slides = bool(reader.get("use_sliding_window", False))
    windows = reader.windows([slides and kind for kind in reader.sliding_layers([not r for r in rotates])])
    rope = reader.rope()
    bias = bool(reader.get("attention_bias", False))
    return llama_like(
        reader,
        [LayerSpec(window, rope if rotated else None) for window, rotated in zip(windows, rotates, strict=False)],
        qkv_bias=bias,
        output_bias=bias,
        tied_head=bool(reader.get("tie_word_embeddings", True)),
    )


def mistral(config: Config, context_length: int | None) -> ModelSpec:
    """All layers slide, unless the config switches it off."""
    reader = ConfigReader(config, context_length, window=4096)
    return llama_like(reader, uniform_layers(reader, sliding=[True] * reader.num_layers))


def phi3(config: Config, context_length: int | None) -> ModelSpec:
    """Fused q/k/v and gate/up tensors; LongRoPE, called ``su`` or ``yarn`` in its first configs."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if scaling.get("rope_type", scaling.get("type")) in ("su", "yarn"):
        config = {**config, "rope_parameters": {**scaling, "rope_type": "longrope"}}
    reader = ConfigReader(config, context_length)
    return llama_like(
        reader,
        uniform_layers(reader, sliding=[True] * reader.num_layers),
        norm_eps=float(reader.get("rms_norm_eps", 1e-5)),
        names=TensorNames(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",)),
    )


def olmo2(config: Config, context_length: int | None) -> ModelSpec:
    """Norms after attention and MLP instead of before; q and k are normed over all heads together."""
    reader = ConfigReader(config, context_length)
    bias = bool(reader.get("attention_bias", False))
    return llama_like(
        reader,
        norm_eps=float(reader.get("rms_norm_eps", 1e-5)),
        pre_norm=False,
        post_norm=True,
        qk_norm="full",
        qkv_bias=bias,
        output_bias=bias,
        names=TensorNames(attention_post_norm="post_attention_layernorm", mlp_post_norm="post_feedforward_layernorm"),
    )


def granite(config: Config, context_length: int | None) -> ModelSpec:
    """Llama with four multipliers; ``logits_scaling`` divides."""
    reader = ConfigReader(config, context_length)
    reader.refuse("mlp_bias", "a bias in the MLP")
    bias = bool(reader.get("attention_bias", False))
    return llama_like(
        reader,
        qkv_bias=bias,
        output_bias=bias,
        embedding_scale=float(reader.get("embedding_multiplier", 1.0)),
        residual_scale=float(reader.get("residual_multiplier", 1.0)),
        attention_scale=float(reader.get("attention_multiplier", 1.0)),
        logit_scale=1.0 / float(reader.get("logits_scaling", 1.0)),
    )
