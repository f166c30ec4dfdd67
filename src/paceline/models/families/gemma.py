"""Gemma 2 and the text part of Gemma 3: norms on both sides, scaled embeddings, alternating local attention."""

from __future__ import annotations

from typing import Any

from paceline.models.families.common import Config, ConfigReader, llama_like, uniform_layers
from paceline.models.rope import rope_parameters
from paceline.models.spec import LayerSpec, ModelSpec, TensorNames

_NAMES = TensorNames(
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)


def gemma2(config: Config, context_length: int | None) -> ModelSpec:
    """Local and global layers in turn; soft caps on scores and logits."""
    reader = ConfigReader(config, context_length, head_dim=256, window=4096)
    sliding = reader.sliding_layers([i % 2 == 0 for i in range(reader.num_layers)])
    return _gemma(
        reader,
        uniform_layers(reader, sliding),
        attention_softcap=_softcap(config, "attn_logit_softcapping", 50.0),
        logit_softcap=_softcap(config, "final_logit_softcapping", 30.0),
    )


def gemma3_text(config: Config, context_length: int | None) -> ModelSpec:
    """Five local layers to a global one, each kind with its own rotation; q and k are normed per head."""
    reader = ConfigReader(config, context_length, theta=1_000_000.0, head_dim=256, window=4096)
    pattern = int(reader.get("sliding_window_pattern", reader.get("_sliding_window_pattern", 6)))
    sliding = reader.sliding_layers([(i + 1) % pattern != 0 for i in range(reader.num_layers)])
    far, near = reader.rope(rope_parameters(config, 1_000_000.0, "full_attention")), reader.rope(_local_rope(config))
    windows = reader.windows(sliding)
    return _gemma(
        reader,
        [LayerSpec(window, near if local else far) for window, local in zip(windows, sliding, strict=True)],
        qk_norm="per_head",
        attention_softcap=_softcap(config, "attn_logit_softcapping", 0.0),
        logit_softcap=_softcap(config, "final_logit_softcapping", 0.0),
    )


def gemma3(config: Config, context_length: int | None) -> ModelSpec:
    """The multimodal wrapper, of which the text part is served."""
    text = {"model_type": "gemma3_text", **_TEXT_DEFAULTS, **config["text_config"]}
    if "tie_word_embeddings" in config:
        text["tie_word_embeddings"] = config["tie_word_embeddings"]
    return gemma3_text(text, context_length)


#: Configs of the multimodal checkpoints leave out what equals the class's defaults.
_TEXT_DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
}


def _gemma(reader: ConfigReader, layers: list[LayerSpec], **overrides: Any) -> ModelSpec:
    reader.refuse("use_bidirectional_attention", "bidirectional attention")
    bias = bool(reader.get("attention_bias", False))
    return llama_like(
        reader,
        layers,
        activation=reader.activation("hidden_activation", "gelu_pytorch_tanh"),
        attention_scale=float(reader.get("query_pre_attn_scalar", 256)) ** -0.5,
        embedding_scale=float(reader.size("hidden_size")) ** 0.5,
        tied_head=bool(reader.get("tie_word_embeddings", True)),
        post_norm=True,
        norm_offset=1.0,
        qkv_bias=bias,
        output_bias=bias,
        names=_NAMES,
        **overrides,
    )


def _local_rope(config: Config) -> dict[str, Any]:
    """Local layers never take the config's scaling; their base is a key of its own in transformers 4."""
    nested = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    base = config.get("rope_local_base_freq") or 10_000.0
    return {"rope_type": "default", "rope_theta": base, **nested}


def _softcap(config: Config, key: str, default: float) -> float:
    """A cap of null switches it off, which is not the same as leaving the key out."""
    return float(config.get(key, default) or 0.0)
