"""Rotary frequencies equal those of transformers to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from paceline.errors import ModelLoadError
from paceline.models.rope import max_context, rope_parameters, rope_spec

HEAD_DIM = 64
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "head_dim": HEAD_DIM}

SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "llama3": {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn with every parameter": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "truncate": False,
    },
    "yarn with an attention factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 4096,
        "attention_factor": 1.3,
    },
}


@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_are_bit_identical_to_transformers(name: str) -> None:
    scaling = {"rope_type": name, "rope_theta": 500_000.0, **SCALINGS[name]}
    config = LlamaConfig(**SIZES, max_position_embeddings=131_072, rope_parameters=dict(scaling))
    expected, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, seq_len=200_000)
    found = rope_spec(scaling, HEAD_DIM, 200_000, config.to_dict())
    assert torch.equal(torch.tensor(found.inv_freq), expected)
    assert found.attention_factor == factor


def test_dynamic_scaling_leaves_contexts_of_the_pretraining_alone() -> None:
    config = {"max_position_embeddings": 4096}
    plain = rope_spec({"rope_type": "default", "rope_theta": 1e4}, HEAD_DIM, 4096, config)
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert rope_spec(dynamic, HEAD_DIM, 4096, config) == plain
    assert rope_spec(dynamic, HEAD_DIM, 8192, config) != plain


@pytest.mark.parametrize("context_length", [4096, 4097])
def test_longrope_chooses_its_factors_by_the_served_context(context_length: int) -> None:
    half = HEAD_DIM // 2
    scaling = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0 + 0.01 * i for i in range(half)],
        "long_factor": [1.5 + 0.9 * i for i in range(half)],
    }
    positions = {"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096}
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim"}
    config = Phi3Config(**sizes, **positions, rope_parameters=dict(scaling))
    expected, factor = ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=context_length)
    found = rope_spec(scaling, HEAD_DIM, context_length, positions)
    assert torch.equal(torch.tensor(found.inv_freq), expected)
    assert found.attention_factor == factor


def test_only_a_part_of_the_head_rotates() -> None:
    parameters = rope_parameters({"rope_theta": 1e4, "partial_rotary_factor": 72 / 96})
    assert len(rope_spec(parameters, 96, 100, {"max_position_embeddings": 100}).inv_freq) == 36


def test_configs_of_both_generations_give_the_same_parameters() -> None:
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    nested = {"rope_parameters": {"full_attention": new["rope_parameters"], "sliding_attention": {}}}
    wanted = {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}
    for found in (rope_parameters(old), rope_parameters(new), rope_parameters(nested, layer_type="full_attention")):
        assert {key: found[key] for key in wanted} == wanted
    assert rope_parameters({}, default_theta=2e6)["rope_theta"] == 2e6


@pytest.mark.parametrize(
    ("parameters", "longest"),
    [
        ({"rope_type": "default"}, 4096),
        ({"rope_type": "linear", "factor": 2.0}, 4096),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
    ],
)
def test_some_scalings_stretch_the_configured_context(parameters: dict[str, Any], longest: int) -> None:
    assert max_context({"max_position_embeddings": 4096}, parameters) == longest


def test_an_unknown_scaling_is_refused_by_name() -> None:
    with pytest.raises(ModelLoadError, match=r"'mrope' is not supported; supported: default, dynamic"):
        rope_spec({"rope_type": "mrope", "rope_theta": 1e4}, HEAD_DIM, 100, {"max_position_embeddings": 100})


def test_a_scaling_without_its_parameters_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="'llama3' lacks its parameter 'low_freq_factor'"):
        parameters = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}
        rope_spec(parameters, HEAD_DIM, 100, {"max_position_embeddings": 100})
