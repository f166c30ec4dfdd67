"""An architecture as data: what the decoder, the loader and the KV cache need to know about a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from paceline.backends.base import Activation, CacheDtype, CacheSpec, RopeSpec

#: ``per_head``: one RMS norm weight of ``head_dim`` shared by the heads; ``full``: over all heads' dims together.
QkNorm = Literal["none", "per_head", "full"]


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Where a family's checkpoints keep each weight. Layer names are relative to ``model.layers.{i}.`` and have no
    ``.weight`` or ``.bias`` suffix. One name in ``qkv`` or ``gate_up`` means a fused tensor (Phi-3)."""

    embedding: str = "embed_tokens"
    final_norm: str = "norm"
    head: str = "lm_head"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    output: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    attention_norm: str = "input_layernorm"
    attention_post_norm: str = ""
    mlp_norm: str = "post_attention_layernorm"
    mlp_post_norm: str = ""
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    expert_gate: str = "mlp.experts.{expert}.gate_proj"
    expert_up: str = "mlp.experts.{expert}.up_proj"
    expert_down: str = "mlp.experts.{expert}.down_proj"


@dataclass(frozen=True, slots=True)
class MoESpec:
    """Mixture of experts in place of a layer's MLP."""

    num_experts: int
    top_k: int
    intermediate_size: int  # of one expert
    normalize: bool  # the chosen experts' router weights are divided by their sum


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What may differ from layer to layer."""

    window: int = 0  # attention window in tokens; 0: the whole context
    rope: RopeSpec | None = None  # None: no positional rotation (NoPE)
    moe: MoESpec | None = None  # None: the dense MLP


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only transformer. Sizes are counts, not bytes; defaults describe Llama."""

    family: str  # the config's model_type
    vocab_size: int
    hidden_size: int
    intermediate_size: int  # of the dense MLP; 0 where every layer has experts
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layers: tuple[LayerSpec, ...]
    norm_eps: float
    attention_scale: float  # scores are q . k times this
    max_context: int  # the longest context the checkpoint supports, in tokens
    context_length: int  # the context that is served; rope and windows are resolved for it
    tied_head: bool = False  # the logits use the embedding table
    activation: Activation = "silu"
    pre_norm: bool = True  # attention and MLP read a normed residual stream
    post_norm: bool = False  # their outputs are normed before they are added
    qk_norm: QkNorm = "none"
    norm_offset: float = 0.0  # added to every stored norm weight (Gemma stores w for a gain of 1 + w)
    qkv_bias: bool = False
    output_bias: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0  # logits become cap * tanh(logit / cap); 0: off
    attention_softcap: float = 0.0
    names: TensorNames = field(default_factory=TensorNames)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def q_size(self) -> int:
        """Width of the queries of all heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the keys (or values) of all key-value heads."""
        return self.num_kv_heads * self.head_dim

    def cache_spec(self, dtype: CacheDtype = "f16", block_size: int = 16) -> CacheSpec:
        """The paged KV cache: one group for each different window, unlimited layers first."""
        windows = sorted({layer.window for layer in self.layers})
        return CacheSpec(
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            layer_group=tuple(windows.index(layer.window) for layer in self.layers),
            group_windows=tuple(windows),
            block_size=block_size,
            dtype=dtype,
        )
