"""Hugging Face configs become model descriptions, whichever generation wrote them and whatever they leave out."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from paceline.errors import ModelLoadError
from paceline.models.families import FAMILIES, model_spec

SIZES: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
}

#: Config files as they are on the Hub, written by transformers 4, with smaller sizes.
OLD_CONFIGS: dict[str, dict[str, Any]] = {
    "Llama 3.1": {
        "model_type": "llama",
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 2048,
        },
        "rms_norm_eps": 1e-5,
    },
    "SmolLM2": {"model_type": "llama", "rope_theta": 100_000, "tie_word_embeddings": True, "rope_scaling": None},
    "SmolLM3": {"model_type": "smollm3", "rope_theta": 5e6, "no_rope_layers": [1, 1, 1, 0] * 2, "sliding_window": None},
    "Mistral 0.1": {"model_type": "mistral", "sliding_window": 4096, "rope_theta": 10_000.0},
    "Mistral 0.3": {"model_type": "mistral", "sliding_window": None, "rope_theta": 1e6},
    "Mistral Nemo": {"model_type": "mistral", "head_dim": 64, "rope_theta": 1e6},
    "Qwen 2.5 with YaRN": {
        "model_type": "qwen2",
        "rope_theta": 1e6,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 4,
    },
    "Qwen 2 sliding": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 512,
        "max_window_layers": 4,
    },
    "Qwen 3": {"model_type": "qwen3", "head_dim": 128, "rope_theta": 1e6, "tie_word_embeddings": True},
    "Gemma 2": {"model_type": "gemma2", "head_dim": 64, "sliding_window": 4096, "query_pre_attn_scalar": 224},
    "Gemma 3 text": {
        "model_type": "gemma3_text",
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 512,
        "sliding_window_pattern": 3,
        "head_dim": 64,
    },
    "Phi 3 mini 4k": {"model_type": "phi3", "sliding_window": 2047, "original_max_position_embeddings": 4096},
    "Phi 3 mini 128k": {
        "model_type": "phi3",
        "rope_scaling": {"type": "longrope", "short_factor": [1.05] * 16, "long_factor": [4.0] * 16},
        "original_max_position_embeddings": 4096,
    },
    "Phi 4 mini": {
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 12, "long_factor": [3.0] * 12},
        "original_max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    },
    "OLMo 2": {"model_type": "olmo2", "rope_theta": 500_000},
    "Granite": {
        "model_type": "granite",
        "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "Mixtral": {"model_type": "mixtral", "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2},
    "Qwen 3 MoE": {
        "model_type": "qwen3_moe",
        "head_dim": 128,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
    },
}


@pytest.mark.parametrize("name", OLD_CONFIGS)
def test_config_of_transformers_4_and_its_rewrite_by_transformers_5_agree(name: str) -> None:
    old = {**SIZES, **OLD_CONFIGS[name]}
    values = {key: value for key, value in old.items() if key != "model_type"}
    new = AutoConfig.for_model(old["model_type"], **values).to_dict()
    assert model_spec(new, context_length=8192) == model_spec(old, context_length=8192)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gemma3"}))
def test_what_a_config_leaves_out_is_what_transformers_assumes(family: str) -> None:
    short = dict(SIZES)
    if family == "qwen3_moe":
        short["moe_intermediate_size"] = 768
        short["head_dim"] = 32  # transformers has no default of its own for this family
    full = AutoConfig.for_model(family, **short).to_dict()
    assert model_spec({**short, "model_type": family}) == model_spec(full)


@pytest.mark.parametrize("name", ["su", "yarn"])
def test_the_first_phi3_configs_called_longrope_by_other_names(name: str) -> None:
    config = {**SIZES, **OLD_CONFIGS["Phi 3 mini 128k"]}
    renamed = {**config, "rope_scaling": {**config["rope_scaling"], "type": name}}
    assert model_spec(renamed) == model_spec(config)


def test_gemma3_is_found_under_the_text_config_of_its_multimodal_wrapper() -> None:
    text = {**SIZES, **OLD_CONFIGS["Gemma 3 text"]}
    wrapped = model_spec(
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    )
    assert wrapped == model_spec(text)


def test_an_unsupported_architecture_is_refused_by_name_with_the_supported_ones() -> None:
    with pytest.raises(ModelLoadError, match=r"MambaForCausalLM \(model_type 'mamba'\) is not supported") as caught:
        model_spec({"model_type": "mamba", "architectures": ["MambaForCausalLM"]})
    for family in FAMILIES:
        assert family in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"hidden_act": "relu2"}, "activation 'relu2' is not supported; supported: silu"),
        ({"num_hidden_layers": None}, "needs a positive 'num_hidden_layers', found None"),
        ({"rope_scaling": {"type": "xpos"}}, "rope scaling 'xpos' is not supported"),
    ],
)
def test_an_option_that_the_decoder_lacks_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        model_spec({**SIZES, "model_type": "llama", **change})


def test_bidirectional_gemma_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="bidirectional attention is not supported"):
        model_spec({**SIZES, "model_type": "gemma3_text", "use_bidirectional_attention": True})


@pytest.mark.parametrize("context_length", [8193, -1])
def test_a_context_beyond_the_models_is_refused_with_the_numbers(context_length: int) -> None:
    with pytest.raises(ModelLoadError, match=rf"{context_length} is out of range: this model supports 1 to 8192"):
        model_spec({**SIZES, "model_type": "llama"}, context_length)


def test_layers_of_equal_window_share_a_cache_group() -> None:
    spec = model_spec({**SIZES, **OLD_CONFIGS["Gemma 3 text"]})
    cache = spec.cache_spec("bf16")
    assert cache.group_windows == (0, 512)
    assert cache.layer_group == (1, 1, 0, 1, 1, 0, 1, 1)
    assert (cache.num_kv_heads, cache.head_dim, cache.dtype) == (4, 64, "bf16")


def test_a_window_that_the_served_context_cannot_exceed_is_no_window() -> None:
    config = {**SIZES, **OLD_CONFIGS["Gemma 3 text"]}
    assert model_spec(config, context_length=512).cache_spec().group_windows == (0,)
    assert model_spec(config, context_length=513).cache_spec().group_windows == (0, 512)


def test_layers_without_rotation_have_no_rope() -> None:
    spec = model_spec({**SIZES, **OLD_CONFIGS["SmolLM3"]})
    assert [layer.rope is None for layer in spec.layers] == [False, False, False, True] * 2
