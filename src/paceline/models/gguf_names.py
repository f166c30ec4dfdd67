"""Tensor names: GGUF -> Hugging Face."""

from __future__ import annotations

import re

#: Outside the layers.
_GLOBAL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}

#: Inside layer ``blk.N``, for every architecture.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

_GEMMA = {"ffn_norm": "pre_feedforward_layernorm"}
#: What a model type names differently.
_OWN: dict[str, dict[str, str]] = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
    "mixtral": {"ffn_gate_inp": "block_sparse_moe.gate"},
    "qwen3_moe": {"ffn_gate_inp": "mlp.gate"},
}

#: Expert matrices: GGUF stacks them (``ffn_gate_exps``); files older than that have ``ffn_gate.E``.
_EXPERTS: dict[str, dict[str, str]] = {
    "mixtral": {
        "ffn_gate": "block_sparse_moe.experts.{}.w1",
        "ffn_down": "block_sparse_moe.experts.{}.w2",
        "ffn_up": "block_sparse_moe.experts.{}.w3",
    },
    "qwen3_moe": {
        "ffn_gate": "mlp.experts.{}.gate_proj",
        "ffn_down": "mlp.experts.{}.down_proj",
        "ffn_up": "mlp.experts.{}.up_proj",
    },
}

_BLOCK = re.compile(r"blk\.(\d+)\.([a-z_]+?)(_exps)?(?:\.(\d+))?\.(weight|bias)")
#: Rope factors are part of the configuration; the others repeat what the configuration says.
NOT_WEIGHTS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}


def hf_names(gguf_name: str, model_type: str, num_experts: int) -> list[str] | None:
    """Hugging Face names of a GGUF tensor: one, or one an expert for a stacked tensor. None: unknown name."""
    base, _, suffix = gguf_name.rpartition(".")
    if base in _GLOBAL:
        return [f"{_GLOBAL[base]}.{suffix}"]
    match = _BLOCK.fullmatch(gguf_name)
    if match is None:
        return None
    layer, part, stacked, expert, suffix = match.groups()
    prefix = f"model.layers.{layer}"
    if stacked or expert is not None:
        name = _EXPERTS.get(model_type, {}).get(part)
        ids = range(num_experts) if stacked else [int(expert)]
        return None if name is None else [f"{prefix}.{name.format(i)}.{suffix}" for i in ids]
    own = _OWN.get(model_type, {}).get(part) or _LAYER.get(part)
    return None if own is None else [f"{prefix}.{own}.{suffix}"]
