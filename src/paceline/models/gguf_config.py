"""GGUF metadata -> the dictionary of a Hugging Face ``config.json``.

What GGUF leaves to the architecture's code (Gemma's layer pattern, SmolLM3's layers without rope) is filled in here, so
that model code reads one kind of configuration.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from paceline.errors import ModelLoadError
from paceline.models.gguf_tokens import turn_end_ids

#: GGUF architecture -> (Hugging Face class, model_type). ``llama`` also carries Mistral and Mixtral.
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "smollm3": ("SmolLM3ForCausalLM", "smollm3"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "qwen3moe": ("Qwen3MoeForCausalLM", "qwen3_moe"),
    "gemma2": ("Gemma2ForCausalLM", "gemma2"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "phi3": ("Phi3ForCausalLM", "phi3"),
    "olmo2": ("Olmo2ForCausalLM", "olmo2"),
    "granite": ("GraniteForCausalLM", "granite"),
}
_GEMMA2_27B_LAYERS, _GEMMA3_27B_LAYERS = 46, 62  # their attention scale is not 1 / sqrt(head_dim)

Factors = Mapping[str, "np.ndarray"]


class _Metadata:
    """Keys of one architecture: ``get("block_count")`` reads ``llama.block_count``."""

    def __init__(self, metadata: Mapping[str, Any], arch: str) -> None:
        self._metadata, self._arch = metadata, arch

    def get(self, key: str, default: Any = None) -> Any:
        value = self._metadata.get(f"{self._arch}.{key}", default)
        return value.tolist() if isinstance(value, array) else value

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelLoadError(f"the GGUF file lacks the metadata key {self._arch}.{key}")
        return value

    def uniform(self, key: str, default: Any = None) -> Any:
        """A number that GGUF may give per layer but that has to be the same in all of them."""
        value = self.get(key, default)
        if not isinstance(value, list):
            return value
        if len(set(value)) != 1:
            raise ModelLoadError(f"{self._arch}.{key} differs between layers ({value}), which is not supported")
        return value[0]


def hf_config(metadata: Mapping[str, Any], names: Mapping[str, tuple[int, ...]], factors: Factors) -> dict[str, Any]:
    """Configuration of a GGUF file. ``names``: its tensors and their shapes; ``factors``: its rope factor tensors by
    name (``rope_freqs.weight``, ``rope_factors_long.weight``, ``rope_factors_short.weight``), where present.

    Raises ``ModelLoadError`` for an architecture that is not supported, naming those that are."""
    arch = str(metadata.get("general.architecture"))
    if arch not in ARCHITECTURES:
        raise ModelLoadError(f"GGUF architecture {arch!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    meta = _Metadata(metadata, arch)
    heads = int(meta.uniform("attention.head_count") or meta.need("attention.head_count"))
    hidden = int(meta.need("embedding_length"))
    head_dim = int(meta.uniform("attention.key_length", hidden // heads))
    architecture, model_type = ARCHITECTURES[arch]
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": names["token_embd.weight"][0] if "token_embd.weight" in names else meta.need("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": int(meta.uniform("feed_forward_length", 0)),
        "num_hidden_layers": int(meta.need("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(meta.uniform("attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "max_position_embeddings": int(meta.need("context_length")),
        "rms_norm_eps": round_float32(meta.need("attention.layer_norm_rms_epsilon")),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "tie_word_embeddings": "output.weight" not in names,
        "rope_theta": round_float32(meta.get("rope.freq_base", 10000.0)),
    }
    rope_dims = int(meta.get("rope.dimension_count", head_dim))
    if rope_dims != head_dim:
        config["partial_rotary_factor"] = rope_dims / head_dim
    if scaling := _rope_scaling(meta, config, factors, rope_dims):
        config["rope_scaling"] = scaling
    _special_tokens(metadata, config)
    _SPECIFICS.get(arch, _plain)(meta, config)
    return config


def round_float32(value: float) -> float:
    """The shortest decimal that gives the same float32: 9.999999747378752e-06 in the file was written as 1e-05."""
    return float(str(np.float32(value)))


def _special_tokens(metadata: Mapping[str, Any], config: dict[str, Any]) -> None:
    prefix = "tokenizer.ggml."
    for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        if prefix + key in metadata:
            config[name] = int(metadata[prefix + key])
    ends = turn_end_ids(metadata)
    if ends:
        config["eos_token_id"] = ends[0] if len(ends) == 1 else ends


def _rope_scaling(meta: _Metadata, config: dict[str, Any], factors: Factors, rope_dims: int) -> dict[str, Any] | None:
    context = config["max_position_embeddings"]
    original = meta.get("rope.scaling.original_context_length")
    if "rope_factors_long.weight" in factors:
        config["original_max_position_embeddings"] = int(original or context)
        return {
            "rope_type": "longrope",
            "long_factor": _decimals(factors["rope_factors_long.weight"]),
            "short_factor": _decimals(factors["rope_factors_short.weight"]),
        }
    if "rope_freqs.weight" in factors:
        return llama3_scaling(factors["rope_freqs.weight"], config["rope_theta"], rope_dims, context)
    kind, factor = meta.get("rope.scaling.type"), meta.get("rope.scaling.factor")
    if kind == "linear" and factor not in (None, 0.0, 1.0):
        return {"rope_type": "linear", "factor": round_float32(factor)}
    if kind == "yarn" and factor:
        scaling = {"rope_type": "yarn", "factor": round_float32(factor)}
        if original:
            scaling["original_max_position_embeddings"] = int(original)
        for key, name in (("beta_fast", "beta_fast"), ("beta_slow", "beta_slow"), ("attn_factor", "attention_factor")):
            value = meta.get(f"rope.scaling.yarn_{key}", meta.get(f"rope.scaling.{key}"))
            if value is not None:
                scaling[name] = round_float32(value)
        return scaling
    return None


def _decimals(values: np.ndarray) -> list[float]:
    return [round_float32(value) for value in values]


def llama3_scaling(factors: np.ndarray, theta: float, dims: int, context: int) -> dict[str, Any] | None:
    """Llama 3's rope scaling from the divisors of each frequency that GGUF keeps in its place.

    Its parameters are recovered and checked against the divisors; divisors from anything else are given as LongRoPE,
    which divides the frequencies by arbitrary numbers, so the result is exact either way."""
    if np.all(factors == 1.0):
        return None
    scaling = {
        "rope_type": "llama3",
        "factor": round_float32(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if np.allclose(_llama3_divisors(scaling, theta, dims), factors, rtol=1e-5):
        return scaling
    same = _decimals(factors)
    return {
        "rope_type": "longrope",
        "long_factor": same,
        "short_factor": same,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }


def _llama3_divisors(scaling: Mapping[str, Any], theta: float, dims: int) -> np.ndarray:
    """Long wavelengths are divided by ``factor``, short ones kept, those between blended linearly in the frequency."""
    wavelength = 2 * math.pi * theta ** (np.arange(0, dims, 2) / dims)
    turns = scaling["original_max_position_embeddings"] / wavelength
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    divisors: np.ndarray = 1.0 / ((1.0 - blend) / scaling["factor"] + blend)
    return divisors


# What only some architectures have -------------------------------------------------------------------------------


def _plain(meta: _Metadata, config: dict[str, Any]) -> None:
    """Nothing more to say."""


def _llama(meta: _Metadata, config: dict[str, Any]) -> None:
    window = meta.get("attention.sliding_window")
    if meta.get("expert_count"):
        config.update(
            architectures=["MixtralForCausalLM"],
            model_type="mixtral",
            num_local_experts=int(meta.need("expert_count")),
            num_experts_per_tok=int(meta.need("expert_used_count")),
            sliding_window=window or None,
        )
    elif window:
        config.update(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=int(window))


def _smollm3(meta: _Metadata, config: dict[str, Any]) -> None:
    every = 4  # fixed in the architecture: each fourth layer has no rope
    layers = range(config["num_hidden_layers"])
    config.update(
        no_rope_layer_interval=every,
        no_rope_layers=[int((i + 1) % every != 0) for i in layers],
        use_sliding_window=False,
    )


def _qwen2(meta: _Metadata, config: dict[str, Any]) -> None:
    config.update(use_sliding_window=False)


def _qwen3moe(meta: _Metadata, config: dict[str, Any]) -> None:
    config.update(
        use_sliding_window=False,
        num_experts=int(meta.need("expert_count")),
        num_experts_per_tok=int(meta.need("expert_used_count")),
        moe_intermediate_size=int(meta.need("expert_feed_forward_length")),
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    )


def _gemma(meta: _Metadata, config: dict[str, Any], odd_layers: int, full_every: int) -> None:
    layers, head_dim = config["num_hidden_layers"], config["head_dim"]
    per_head = config["hidden_size"] / config["num_attention_heads"]
    scale = meta.get("attention.scale")
    query_scalar = per_head if layers == odd_layers else head_dim
    config.pop("mlp_bias")
    config.pop("hidden_act")
    config.update(
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=scale**-2 if scale else query_scalar,
        attn_logit_softcapping=meta.get("attn_logit_softcapping"),
        final_logit_softcapping=meta.get("final_logit_softcapping"),
        sliding_window=int(meta.get("attention.sliding_window") or 0) or None,
        layer_types=_layer_types(meta, layers, full_every),
    )


def _layer_types(meta: _Metadata, layers: int, full_every: int) -> list[str]:
    pattern = meta.get("attention.sliding_window_pattern", full_every)
    if not meta.get("attention.sliding_window"):
        sliding = [False] * layers
    elif isinstance(pattern, list):
        sliding = [bool(value) for value in pattern]
    else:
        sliding = [(i + 1) % int(pattern) != 0 for i in range(layers)]
    return ["sliding_attention" if value else "full_attention" for value in sliding]


def _gemma2(meta: _Metadata, config: dict[str, Any]) -> None:
    _gemma(meta, config, _GEMMA2_27B_LAYERS, full_every=2)


def _gemma3(meta: _Metadata, config: dict[str, Any]) -> None:
    _gemma(meta, config, _GEMMA3_27B_LAYERS, full_every=6)
    config["rope_local_base_freq"] = round_float32(meta.get("rope.freq_base_swa", 10000.0))


def _phi3(meta: _Metadata, config: dict[str, Any]) -> None:
    config["sliding_window"] = int(meta.get("attention.sliding_window") or 0) or None
    original = meta.get("rope.scaling.original_context_length")
    config.setdefault("original_max_position_embeddings", int(original or config["max_position_embeddings"]))


def _olmo2(meta: _Metadata, config: dict[str, Any]) -> None:
    if meta.get("attention.sliding_window"):  # the same GGUF architecture carries OLMo 3
        config.update(
            architectures=["Olmo3ForCausalLM"],
            model_type="olmo3",
            sliding_window=int(meta.need("attention.sliding_window")),
            layer_types=_layer_types(meta, config["num_hidden_layers"], full_every=4),
        )


def _granite(meta: _Metadata, config: dict[str, Any]) -> None:
    config.update(
        attention_multiplier=round_float32(meta.get("attention.scale", config["head_dim"] ** -0.5)),
        embedding_multiplier=round_float32(meta.get("embedding_scale", 1.0)),
        residual_multiplier=round_float32(meta.get("residual_scale", 1.0)),
        logits_scaling=round_float32(meta.get("logit_scale", 1.0)),
    )


_SPECIFICS = {
    "llama": _llama,
    "smollm3": _smollm3,
    "qwen2": _qwen2,
    "qwen3": _qwen2,
    "qwen3moe": _qwen3moe,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "olmo2": _olmo2,
    "granite": _granite,
}
