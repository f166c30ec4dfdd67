"""Mixtral: Mistral with experts in every layer."""

from __future__ import annotations

from paceline.models.families.common import Config, ConfigReader, llama_like, uniform_layers
from paceline.models.spec import ModelSpec, MoESpec, TensorNames


def mixtral(config: Config, context_length: int | None) -> ModelSpec:
    """Two of eight experts for each token, by default."""
    reader = ConfigReader(config, context_length, theta=1_000_000.0)
    experts = MoESpec(
        num_experts=int(reader.get("num_local_experts", 8)),
        top_k=int(reader.get("num_experts_per_tok", 2)),
        intermediate_size=reader.size("intermediate_size"),
        normalize=True,
    )
    return llama_like(
        reader,
        uniform_layers(reader, [True] * reader.num_layers, [experts] * reader.num_layers),
        norm_eps=float(reader.get("rms_norm_eps", 1e-5)),
        names=TensorNames(
            router="block_sparse_moe.gate",
            expert_gate="block_sparse_moe.experts.{expert}.w1",
            expert_up="block_sparse_moe.experts.{expert}.w3",
            expert_down="block_sparse_moe.experts.{expert}.w2",
        ),
    )
