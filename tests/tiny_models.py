"""Tiny random models of every supported family, made with transformers: what the fidelity tests compare with.

Weights are drawn wide enough that attention is peaked and every norm, bias and multiplier matters: a model with the
usual initialisation of 0.02 hardly notices a wrong rotary embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SiglipVisionConfig,
    SmolLM3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM, AutoModelForImageTextToText

VOCABULARY = 160
WINDOW = 12

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_HEADS_OF_32 = {"head_dim": 32}


def _config(kind: type[PreTrainedConfig], **values: Any) -> PreTrainedConfig:
    return kind(**{**_COMMON, **values})


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10_000.0, **values}


def _longrope(original: int) -> dict[str, Any]:
    short, long = [1.0 + 0.1 * i for i in range(8)], [2.0 + 0.7 * i for i in range(8)]
    scaling = _rope("longrope", short_factor=short, long_factor=long, original_max_position_embeddings=original)
    return {"rope_parameters": scaling, "original_max_position_embeddings": original}


def _gemma3_text(**values: Any) -> PreTrainedConfig:
    layers = {"num_hidden_layers": 4, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
    windows = {"sliding_window": WINDOW, "query_pre_attn_scalar": 24}
    return _config(Gemma3TextConfig, **{**_HEADS_OF_32, **layers, **windows, **values})


def _gemma3() -> PreTrainedConfig:
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    return Gemma3Config(text_config=_gemma3_text().to_dict(), vision_config=vision.to_dict(), image_token_index=150)


LLAMA3 = _rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = _rope("yarn", factor=2.0, original_max_position_embeddings=64, beta_fast=16.0)

#: Every family, and every variation of one that takes another path through the code.
CONFIGS = {
    "llama": lambda: _config(LlamaConfig),
    "llama-heads-and-biases": lambda: _config(LlamaConfig, head_dim=24, attention_bias=True),
    "llama-linear": lambda: _config(LlamaConfig, rope_parameters=_rope("linear", factor=3.0)),
    "llama-dynamic": lambda: _config(
        LlamaConfig, max_position_embeddings=32, rope_parameters=_rope("dynamic", factor=2.0)
    ),
    "llama-llama3": lambda: _config(LlamaConfig, rope_parameters=LLAMA3),
    "llama-yarn": lambda: _config(LlamaConfig, rope_parameters=YARN),
    "smollm2": lambda: _config(LlamaConfig, tie_word_embeddings=True, num_attention_heads=3, num_key_value_heads=1,
                               hidden_size=96, rope_theta=100_000.0),
    "smollm3": lambda: _config(SmolLM3Config, num_hidden_layers=4),
    "mistral": lambda: _config(MistralConfig, sliding_window=WINDOW),
    "mistral-global": lambda: _config(MistralConfig, sliding_window=None),
    "qwen2": lambda: _config(Qwen2Config, tie_word_embeddings=True),
    "qwen2-sliding": lambda: _config(
        Qwen2Config, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: _config(Qwen3Config, **_HEADS_OF_32),
    "gemma2": lambda: _config(
        Gemma2Config, **_HEADS_OF_32, sliding_window=WINDOW, query_pre_attn_scalar=24,
        attn_logit_softcapping=5.0, final_logit_softcapping=8.0,
    ),
    "gemma3_text": _gemma3_text,
    "gemma3": _gemma3,
    "phi3": lambda: _config(Phi3Config, sliding_window=WINDOW),
    "phi3-partial-rotary": lambda: _config(Phi3Config, partial_rotary_factor=0.75, head_dim=16),
    "phi3-longrope-short": lambda: _config(Phi3Config, **_longrope(original=64)),
    "phi3-longrope-long": lambda: _config(Phi3Config, **_longrope(original=16)),
    "olmo2": lambda: _config(Olmo2Config),
    "granite": lambda: _config(
        GraniteConfig, attention_multiplier=0.3, embedding_multiplier=6.0, residual_multiplier=0.4, logits_scaling=3.0
    ),
    "mixtral": lambda: _config(MixtralConfig, num_local_experts=4, sliding_window=None),
    "mixtral-sliding": lambda: _config(MixtralConfig, num_local_experts=4, sliding_window=WINDOW),
    "qwen3_moe": lambda: _config(
        Qwen3MoeConfig, **_HEADS_OF_32, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32,
        mlp_only_layers=[1], norm_topk_prob=True,
    ),
    "qwen3_moe-unnormalized": lambda: _config(
        Qwen3MoeConfig, **_HEADS_OF_32, num_experts=4, num_experts_per_tok=3, moe_intermediate_size=32,
        decoder_sparse_step=2,
    ),
}  # fmt: skip

#: Context to serve, where the rotary embedding depends on it. Test sequences are ``LONGEST`` tokens at most.
LONGEST = 45
CONTEXTS = {"llama-dynamic": LONGEST, "phi3-longrope-short": 64}


def tiny_model(variant: str, seed: int = 0) -> PreTrainedModel:
    """A float32 model with eager attention and random weights."""
    config = CONFIGS[variant]()
    config._attn_implementation = "eager"
    auto = AutoModelForImageTextToText if variant == "gemma3" else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    centre = 0.0 if "gemma" in variant else 1.0  # Gemma stores a norm's gain less one
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(centre + 0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(0.4 * noise)
            else:
                parameter.copy_(1.5 * noise / parameter.shape[-1] ** 0.5)
    return model


def save_tiny_model(variant: str, folder: Path, seed: int = 0) -> PreTrainedModel:
    """Makes a tiny model and writes it to ``folder`` as ``config.json`` and safetensors."""
    model = tiny_model(variant, seed)
    model.save_pretrained(folder)
    return model
