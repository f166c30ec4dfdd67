"""Writes a Hugging Face checkpoint as GGUF, the way llama.cpp's converter does: names from the ``gguf`` package's own
table, q and k rows permuted and norms shifted where the converter does so, the same metadata keys."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import quantize

from paceline.models.checkpoint import SafetensorsCheckpoint

ARCH = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "granite": gguf.MODEL_ARCH.GRANITE,
}
PERMUTED = {"llama", "mistral", "mixtral", "smollm3", "granite"}


def export(folder: Path, path: Path, quantization: gguf.GGMLQuantizationType | None = None) -> None:
    """Converts ``folder``. Matrices become ``quantization`` (None: float32); vectors are always float32."""
    checkpoint = SafetensorsCheckpoint(folder)
    config, kind = checkpoint.config, checkpoint.config["model_type"]
    arch = ARCH[kind]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    _metadata(writer, config)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, values in _tensors(checkpoint):
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new_name is not None, name
        if quantization is not None and values.ndim > 1:
            writer.add_tensor(new_name, quantize(values, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(new_name, values)
    for name, values in _rope_tensors(config):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(checkpoint: SafetensorsCheckpoint) -> list[tuple[str, np.ndarray]]:
    """Tensors as the converter writes them, still under Hugging Face names; experts merged."""
    config, kind = checkpoint.config, checkpoint.config["model_type"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    tensors, experts = [], defaultdict(dict)
    for name in checkpoint.names():
        values = checkpoint.get_tensor(name).numpy()
        if kind in PERMUTED and ".q_proj." in name:
            values = permute(values, heads)
        if kind in PERMUTED and ".k_proj." in name:
            values = permute(values, kv_heads)
        if kind in ("gemma2", "gemma3_text") and name.endswith("norm.weight"):
            values = values + np.float32(1.0)
        if ".experts." in name:
            before, after = name.split(".experts.")
            number, part = after.split(".", 1)
            experts[f"{before}.experts.{part}"][int(number)] = values
        elif not (name == "lm_head.weight" and config.get("tie_word_embeddings")):
            tensors.append((name, values))
    for name, parts in experts.items():
        # The converter gives Mixtral's stacks the name of the original release.
        merged = name.replace("block_sparse_moe", "feed_forward").removeprefix("model.") if kind == "mixtral" else name
        tensors.append((merged, np.stack([parts[i] for i in sorted(parts)])))
    return tensors


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows (half, pair) of each head become (pair, half)."""
    split = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return split.swapaxes(1, 2).reshape(weights.shape).copy()


def _metadata(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    kind = config["model_type"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_vocab_size(config["vocab_size"])
    head_dim = config.get("head_dim")
    if head_dim is not None and kind not in ("granite", "phi3"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    head_dim = head_dim or config["hidden_size"] // config["num_attention_heads"]
    if kind in PERMUTED:
        writer.add_rope_dimension_count(head_dim)
    _rope_metadata(writer, config, head_dim)
    if kind in ("gemma2", "gemma3_text", "phi3"):
        writer.add_sliding_window(config.get("sliding_window") or 0)
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if kind == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if kind in ("mixtral", "qwen3_moe"):
        writer.add_expert_count(config.get("num_local_experts") or config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if kind == "qwen3_moe":
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def rope_parameters(config: dict[str, Any]) -> dict[str, Any]:
    found = config["rope_parameters"]
    return dict(found.get("full_attention", found))


def _rope_metadata(writer: gguf.GGUFWriter, config: dict[str, Any], head_dim: int) -> None:
    rope = rope_parameters(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    if config["model_type"] == "phi3":
        original = config["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 1.0) * head_dim))
        scale = config["max_position_embeddings"] / original
        if kind == "longrope":
            factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
            writer.add_rope_scaling_attn_factors(factor)


def _rope_tensors(config: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    rope = rope_parameters(config)
    if rope["rope_type"] == "longrope":
        return [
            (f"rope_factors_{which}.weight", np.array(rope[f"{which}_factor"], np.float32))
            for which in ("long", "short")
        ]
    if rope["rope_type"] != "llama3":
        return []
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return [("rope_freqs.weight", llama3_factors(rope, dim))]


def llama3_factors(rope: dict[str, Any], dim: int) -> np.ndarray:
    """What the converter stores for Llama 3's scaling: the divisor of each frequency."""
    frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    original = rope["original_max_position_embeddings"]
    factors = []
    for frequency in frequencies.tolist():
        wavelength = 2 * math.pi / frequency
        if wavelength < original / rope["high_freq_factor"]:
            factors.append(1.0)
        elif wavelength > original / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = original / wavelength - rope["low_freq_factor"]
            smooth /= rope["high_freq_factor"] - rope["low_freq_factor"]
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)
