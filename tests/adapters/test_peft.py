"""Reading PEFT's adapters: what comes out, and every reason for which one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora_models import FUSED_TARGETS, Tensors, random_tensors, write_adapter
from paceline.adapters.peft import read_adapter
from paceline.adapters.weights import AdapterWeights, Site
from paceline.errors import AdapterError
from tiny_models import tiny_model

HIDDEN, KEYS, INNER, LAYERS = 64, 32, 96, 3
LAYER_SHAPES = {
    "q": (HIDDEN, HIDDEN), "k": (KEYS, HIDDEN), "v": (KEYS, HIDDEN), "o": (HIDDEN, HIDDEN),
    "gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER),
}  # fmt: skip
SHAPES: dict[Site, tuple[int, int]] = {
    (layer, part): shape for layer in range(LAYERS) for part, shape in LAYER_SHAPES.items()
}
Q = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.fixture
def tensors() -> Tensors:
    """All seven modules of a tiny Llama, rank 8."""
    return random_tensors(tiny_model("llama"), 8, seed=1)


def read(folder: Path, tensors: Tensors, **config: Any) -> AdapterWeights:
    return read_adapter(write_adapter(folder, tensors, **config), SHAPES, "tiny-llama")


def test_every_module_of_every_layer_comes_with_its_matrices_and_scale(tmp_path: Path, tensors: Tensors) -> None:
    adapter = read(tmp_path, tensors, lora_alpha=12)
    assert set(adapter.parts) == set(SHAPES)
    part = adapter.parts[1, "q"]
    assert torch.equal(part.a, tensors[f"{Q}.lora_A.weight"])
    assert torch.equal(part.b, tensors[f"{Q}.lora_B.weight"])
    assert part.scale == 12 / 8
    assert adapter.nbytes == 4 * sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "language_model.model.", ""])
def test_wrappers_put_the_decoder_under_other_names(tmp_path: Path, tensors: Tensors, prefix: str) -> None:
    moved = {name.replace("model.model.model.", f"model.model.{prefix}"): tensor for name, tensor in tensors.items()}
    assert set(read(tmp_path, moved).parts) == set(SHAPES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32(tmp_path: Path, tensors: Tensors, dtype: torch.dtype) -> None:
    part = read(tmp_path, {name: tensor.to(dtype) for name, tensor in tensors.items()}).parts[1, "q"]
    assert torch.equal(part.a, tensors[f"{Q}.lora_A.weight"].to(dtype).float())


def test_the_parts_of_a_fused_module_share_its_a(tmp_path: Path) -> None:
    tensors = random_tensors(tiny_model("phi3"), 8, targets=FUSED_TARGETS, seed=2)
    parts = read(tmp_path, tensors).parts
    assert set(parts) == set(SHAPES)
    fused = tensors["base_model.model.model.layers.2.self_attn.qkv_proj.lora_B.weight"]
    assert torch.equal(torch.cat([parts[2, part].b for part in "qkv"]), fused)
    assert parts[2, "q"].a is parts[2, "v"].a
    assert parts[2, "gate"].a is parts[2, "up"].a


def test_rank_stabilised_adapters_divide_by_the_root_of_the_rank(tmp_path: Path, tensors: Tensors) -> None:
    assert read(tmp_path, tensors, use_rslora=True).parts[0, "up"].scale == pytest.approx(16 / 8**0.5)


def test_patterns_give_modules_their_own_rank_and_alpha(tmp_path: Path) -> None:
    ranks = {"layers.0.mlp.down_proj": 2, "k_proj": 4}
    tensors = random_tensors(tiny_model("llama"), 8, ranks=ranks, seed=3)
    rank_pattern = {r"layers\.0\.mlp\.down_proj": 2, "k_proj": 4}
    parts = read(
        tmp_path, tensors, rank_pattern=rank_pattern, alpha_pattern={r"model\.layers\.[12]\..*down_proj": 6}
    ).parts
    found = {site: (parts[site].rank, parts[site].scale) for site in [(0, "down"), (1, "down"), (2, "k"), (2, "q")]}
    assert found == {(0, "down"): (2, 8.0), (1, "down"): (8, 0.75), (2, "k"): (4, 4.0), (2, "q"): (8, 2.0)}


def test_a_pattern_matches_whole_names_from_a_dot_on(tmp_path: Path) -> None:
    """``proj`` alone is the end of no module's name, so it is no pattern for ``q_proj``."""
    tensors = random_tensors(tiny_model("llama"), 8, seed=3)
    assert read(tmp_path, tensors, rank_pattern={"proj": 2}).parts[0, "q"].rank == 8


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"target_modules": ["q_proj", "mlp.up_proj"]}, {(i, p) for i in range(LAYERS) for p in ("q", "up")}),
        ({"target_modules": r".*\.1\.self_attn\.[kv]_proj"}, {(1, "k"), (1, "v")}),
        ({"target_modules": ["o_proj"], "layers_to_transform": [0, 2]}, {(0, "o"), (2, "o")}),
        ({"target_modules": ["o_proj"], "layers_to_transform": 1, "layers_pattern": "layers"}, {(1, "o")}),
        ({"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.0\..*"},
         {(i, p) for i in (1, 2) for p in ("q", "v")}),
        ({"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]}, {(i, "q") for i in range(LAYERS)}),
    ],
)  # fmt: skip
def test_only_what_the_configuration_targets_has_to_be_there(
    tmp_path: Path, tensors: Tensors, config: dict[str, Any], expected: set[Site]
) -> None:
    names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
    names["up"] = "mlp.up_proj"
    kept = tuple(f".layers.{layer}.{names[part]}.lora_" for layer, part in expected)
    chosen = {name: tensor for name, tensor in tensors.items() if any(key in name for key in kept)}
    assert set(read(tmp_path / "whole", chosen, **config).parts) == expected
    if len(expected) > 1:
        short = {name: tensor for name, tensor in chosen.items() if kept[0] not in name}
        with pytest.raises(AdapterError, match=r"targets .* more modules for which adapter_model\.safetensors has no"):
            read(tmp_path / "short", short, **config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "of type 'LOHA'; only 'LORA' is supported"),
        ({"peft_type": None}, "of type None"),
        ({"use_dora": True}, "DoRA .* is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save .* is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out .* is not supported"),
        ({"bias": "lora_only"}, "bias='lora_only' .* is not supported"),
        ({"lora_bias": True}, "lora_bias .* is not supported"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters .* is not supported"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices .* is not supported"),
        ({"alora_invocation_tokens": [1, 2]}, "activated LoRA .* is not supported"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' changes the base model's weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora' changes"),
        ({"use_magic": True, "later_option": 3}, "options that are not known here: later_option, use_magic"),
        ({"r": 0}, r"the rank of model\.layers\.\d\..* is 0; it must be a whole number of 1 or more"),
        ({"r": "8"}, "is '8'; it must be a whole number"),
        ({"r": 16}, "has rank 8 in adapter_model.safetensors and 16 in the configuration"),
        ({"lora_alpha": "large"}, "lora_alpha of .* is 'large'; it must be a finite number"),
        ({"lora_alpha": float("nan")}, "lora_alpha of .* is nan"),
        ({"rank_pattern": {"q_proj(": 4}}, r"has the pattern .*q_proj\(.* which is none"),
    ],
)
def test_a_configuration_that_is_not_supported_is_refused_by_name(
    tmp_path: Path, tensors: Tensors, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(AdapterError, match=message) as caught:
        read(tmp_path, tensors, **config)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_base_model_alone_are_supported(tmp_path: Path, tensors: Tensors, start: Any) -> None:
    assert read(tmp_path, tensors, init_lora_weights=start).parts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", r"LoRA on the embedding \(embed_tokens\)"),
        ("base_model.model.model.embed_tokens.weight", r"LoRA on the embedding \(embed_tokens\), or a retrained one"),
        ("base_model.model.lm_head.lora_A.weight", r"LoRA on the output head \(lm_head\)"),
        ("base_model.model.model.layers.0.mlp.experts.3.up_proj.lora_A.weight", "LoRA on the experts of a mixture"),
        ("base_model.model.model.layers.0.block_sparse_moe.gate.lora_A.weight", "LoRA on the experts of a mixture"),
        ("base_model.model.model.layers.0.mlp.gate.lora_A.weight", "LoRA on the router of a mixture"),
        (f"{Q}.lora_magnitude_vector", "DoRA is not supported"),
        (f"{Q}.lora_B.bias", "a bias on B"),
        ("base_model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight", "LoRA on the vision part"),
        ("base_model.model.model.layers.0.self_attn.w_proj.lora_A.weight", "w_proj.lora_A.weight' is not known"),
        (f"{Q}.lora_A.default.weight", "is not known; adapters may update self_attn.q_proj"),
        ("base_model.model.model.layers.0.input_layernorm.weight", "is not known"),
    ],
)
def test_a_tensor_that_cannot_be_applied_is_named(tmp_path: Path, tensors: Tensors, name: str, message: str) -> None:
    with pytest.raises(AdapterError, match=message) as caught:
        read(tmp_path, {**tensors, name: torch.ones(8, 64)})
    assert repr(name) in str(caught.value)


def change(tensors: Tensors, letter: str, tensor: torch.Tensor | None) -> Tensors:
    changed = {**tensors, f"{Q}.lora_{letter}.weight": tensor}
    return {name: value for name, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("letter", "tensor", "message"),
    [
        ("A", None, r"layers\.1\.self_attn\.q_proj has its B but not its A"),
        ("B", None, r"layers\.1\.self_attn\.q_proj has its A but not its B"),
        (
            "A",
            torch.ones(8, 48),
            r"A \[8, 48\] and B \[64, 8\]; the model's weight \[64, 64\] needs .*this is tiny-llama",
        ),
        ("B", torch.ones(48, 8), r"A \[8, 64\] and B \[48, 8\]; the model's weight \[64, 64\]"),
        ("B", torch.ones(64, 4), r"A \[8, 64\] and B \[64, 4\]"),
        ("A", torch.ones(8), "has shape .8. where a matrix is needed"),
        ("A", torch.full((8, 64), float("nan")), "not finite"),
        ("B", torch.full((64, 8), float("inf")), "not finite"),
        ("A", torch.ones(8, 64, dtype=torch.int8), r"is stored as torch\.int8; supported types: torch\.float32"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused_with_its_shape(
    tmp_path: Path, tensors: Tensors, letter: str, tensor: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        read(tmp_path, change(tensors, letter, tensor))


def test_an_adapter_of_a_deeper_model_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    deeper = {name.replace("layers.2.", "layers.7."): tensor for name, tensor in tensors.items()}
    with pytest.raises(
        AdapterError, match=r"it updates model\.layers\.7\..*, but the model has 3 layers; it was trained"
    ):
        read(tmp_path, deeper, base_model_name_or_path="org/deeper-model")


def test_a_projection_in_a_layer_of_experts_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    shapes = {site: shape for site, shape in SHAPES.items() if site != (1, "up")}
    with pytest.raises(AdapterError, match=r"updates model\.layers\.1\.mlp\.up_proj.*has none in that layer"):
        read_adapter(write_adapter(tmp_path, tensors), shapes, "tiny")


def test_one_weight_may_not_be_updated_by_two_modules(tmp_path: Path, tensors: Tensors) -> None:
    fused = Q.replace("q_proj", "qkv_proj")
    tensors[f"{fused}.lora_A.weight"] = torch.ones(8, HIDDEN)
    tensors[f"{fused}.lora_B.weight"] = torch.ones(HIDDEN + 2 * KEYS, 8)
    with pytest.raises(AdapterError, match=r"updates '[qkv]' of layer 1, which another module updates as well"):
        read(tmp_path, tensors)


def test_a_folder_that_is_no_adapter_says_what_is_missing(tmp_path: Path, tensors: Tensors) -> None:
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(AdapterError, match=message):
            read_adapter(folder, SHAPES, "tiny")

    refused(tmp_path / "nowhere", "there is no such folder")
    refused(tmp_path, r"there is no adapter_config\.json")
    folder = write_adapter(tmp_path / "adapter", tensors)
    config = folder / "adapter_config.json"
    text = config.read_text()
    for broken, message in (("{", "cannot be read"), ("[1]", "is not a JSON object")):
        config.write_text(broken)
        refused(folder, message)
    config.write_text(text)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(folder, "the file is truncated or damaged")
    weights.unlink()
    refused(folder, r"there is no adapter_model\.safetensors")
    (folder / "adapter_model.bin").write_bytes(b"")
    refused(folder, r"pickled \(adapter_model\.bin\).*convert them")
    save_file({}, weights)
    refused(folder, "has no tensors")


def test_config_keys_of_later_peft_versions_that_are_off_do_not_matter(tmp_path: Path, tensors: Tensors) -> None:
    folder = write_adapter(tmp_path, tensors, later_option=None, another=False, third={}, fourth=[])
    assert json.loads((folder / "adapter_config.json").read_text())["later_option"] is None
    assert read_adapter(folder, SHAPES, "tiny").parts
