"""A GGUF file gives back the Hugging Face checkpoint that it was made from: configuration, names, rows, numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from gguf_export import export, llama3_factors, permute

import tiny_models
from paceline.errors import ModelLoadError
from paceline.models.checkpoint import SafetensorsCheckpoint, open_checkpoint
from paceline.models.checkpoint_gguf import GgufCheckpoint
from paceline.models.families import model_spec
from paceline.models.gguf_config import ARCHITECTURES, llama3_scaling

#: GGUF stacks the experts of every layer, so a model with dense layers between cannot be written.
EVERY_LAYER = "qwen3_moe-every-layer"
VARIANTS = [
    "llama",
    "llama-heads-and-biases",
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "smollm2",
    "smollm3",
    "mistral-global",
    "mixtral",
    "qwen2",
    "qwen3",
    EVERY_LAYER,
    "gemma2",
    "gemma3_text",
    "phi3",
    "phi3-partial-rotary",
    "phi3-longrope-short",
    "phi3-longrope-long",
    "olmo2",
    "granite",
]

# What llama.cpp has in its code, so that GGUF does not carry it: layer patterns and attention scales of Gemma.


def _gemma3_with_fixed_pattern() -> object:
    layers = [("full_attention" if i == 5 else "sliding_attention") for i in range(7)]
    return tiny_models._gemma3_text(query_pre_attn_scalar=32, num_hidden_layers=7, layer_types=layers)


def _gemma2_with_fixed_scale() -> object:
    config = tiny_models.CONFIGS["gemma2"]()
    config.query_pre_attn_scalar = 32
    return config


def _qwen3_moe_everywhere() -> object:
    config = tiny_models.CONFIGS["qwen3_moe"]()
    config.mlp_only_layers = []
    return config


OWN_CONFIGS: dict[str, Callable[[], object]] = {
    "gemma2": _gemma2_with_fixed_scale,
    "gemma3_text": _gemma3_with_fixed_pattern,
    EVERY_LAYER: _qwen3_moe_everywhere,
}

Pair = tuple[SafetensorsCheckpoint, GgufCheckpoint]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """The checkpoint of a variant in both forms."""
    made: dict[str, Pair] = {}
    own = {variant: make() for variant, make in OWN_CONFIGS.items()}

    def make(variant: str) -> Pair:
        if variant not in made:
            folder = tmp_path_factory.mktemp(variant)
            with pytest.MonkeyPatch.context() as patch:
                if variant in own:
                    patch.setitem(tiny_models.CONFIGS, variant, lambda: own[variant])
                tiny_models.save_tiny_model(variant, folder)
            export(folder, folder / "model.gguf")
            made[variant] = SafetensorsCheckpoint(folder), GgufCheckpoint(folder / "model.gguf")
        return made[variant]

    return make


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tensor_comes_back_under_its_name(variant: str, pair: Callable[[str], Pair]) -> None:
    original, converted = pair(variant)
    names = set(original.names()) - ({"lm_head.weight"} if original.config.get("tie_word_embeddings") else set())
    assert set(converted.names()) == names
    for name in names:
        assert name in converted
        expected = original.get_tensor(name)
        # Gemma's norms are stored as 1 + w, which rounds small w.
        tolerance = 2.4e-7 if "gemma" in variant and name.endswith("norm.weight") else 0.0
        torch.testing.assert_close(converted.get_tensor(name), expected, rtol=0.0, atol=tolerance)
        if expected.dim() == 2:
            assert torch.equal(converted.get(name).dequantize(), expected), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_describes_the_same_model(variant: str, pair: Callable[[str], Pair]) -> None:
    original, converted = pair(variant)
    context = tiny_models.CONTEXTS.get(variant)
    expected, found = model_spec(original.config, context), model_spec(converted.config, context)
    if variant.startswith("mistral"):  # without a window a Mistral is a Llama, and GGUF calls it so
        expected = replace(expected, family="llama")
    for layer, other in zip(expected.layers, found.layers, strict=True):
        assert (layer.rope is None) == (other.rope is None)
        if layer.rope is not None and other.rope is not None:
            np.testing.assert_allclose(other.rope.inv_freq, layer.rope.inv_freq, rtol=1e-6)
            assert other.rope.attention_factor == pytest.approx(layer.rope.attention_factor)
    unrotated = [replace(spec, layers=tuple(replace(x, rope=None) for x in spec.layers)) for spec in (expected, found)]
    assert unrotated[1] == unrotated[0]


@pytest.mark.parametrize("variant", ["llama", "gemma2", EVERY_LAYER, "granite"])
def test_transformers_accepts_the_configuration(variant: str, pair: Callable[[str], Pair]) -> None:
    from transformers import AutoConfig

    original, converted = pair(variant)
    settings = {key: value for key, value in converted.config.items() if key != "model_type"}
    config = AutoConfig.for_model(converted.config["model_type"], **settings).to_dict()
    for key in ("hidden_size", "num_key_value_heads", "eos_token_id", "bos_token_id", "tie_word_embeddings"):
        assert config[key] == original.config[key], key
    assert converted.config["architectures"] == original.config["architectures"]


def test_quantized_rows_are_put_back_in_order_without_rounding(tmp_path: Path) -> None:
    tiny_models.save_tiny_model("llama", tmp_path)
    export(tmp_path, tmp_path / "model.gguf", gguf.GGMLQuantizationType.Q4_1)
    original = SafetensorsCheckpoint(tmp_path)
    with_codes = GgufCheckpoint(tmp_path / "model.gguf")
    for name, heads in (("q_proj", 4), ("k_proj", 2), ("v_proj", 0)):
        name = f"model.layers.1.self_attn.{name}.weight"
        weights = original.get_tensor(name).numpy()
        stored = permute(weights, heads) if heads else weights
        stored = dequantize(quantize(stored, gguf.GGMLQuantizationType.Q4_1), gguf.GGMLQuantizationType.Q4_1)
        weight = with_codes.get(name)
        assert weight.kind == "q4" and weight.data.is_contiguous()
        got = weight.dequantize().numpy()
        np.testing.assert_array_equal(permute(got, heads) if heads else got, stored)


def test_quantized_experts_are_cut_out_of_their_stack(pair: Callable[[str], Pair], tmp_path: Path) -> None:
    original, _ = pair("mixtral")
    export(original.folder, tmp_path / "model.gguf", gguf.GGMLQuantizationType.Q8_0)
    quantized = GgufCheckpoint(tmp_path / "model.gguf")
    kind = gguf.GGMLQuantizationType.Q8_0
    for expert in range(4):
        name = f"model.layers.2.block_sparse_moe.experts.{expert}.w2.weight"
        expected = dequantize(quantize(original.get_tensor(name).numpy(), kind), kind)
        np.testing.assert_array_equal(quantized.get(name).dequantize().numpy(), expected)


def test_llama3_scaling_is_recovered_from_its_divisors() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = llama3_factors({**scaling, "rope_theta": 500_000.0}, 64)
    assert llama3_scaling(factors, 500_000.0, 64, 131_072) == scaling


def test_other_divisors_are_kept_as_they_are() -> None:
    factors = np.array([1.0, 1.5, 2.0, 7.0], np.float32)
    scaling = llama3_scaling(factors, 10_000.0, 8, 4096)
    assert scaling is not None and scaling["rope_type"] == "longrope"
    assert scaling["short_factor"] == scaling["long_factor"] == [1.0, 1.5, 2.0, 7.0]
    assert scaling["attention_factor"] == 1.0
    assert llama3_scaling(np.ones(4, np.float32), 10_000.0, 8, 4096) is None


def _write(path: Path, arch: str, tensors: dict[str, np.ndarray], **numbers: int) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    for key, value in numbers.items():
        writer.add_uint32(f"{arch}.{key.replace('__', '.')}", value)
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SIZES = {
    "block_count": 1,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 32,
    "attention__head_count": 2,
}
EMBEDDING = {"token_embd.weight": np.zeros((8, 32), np.float32)}


def test_an_unsupported_architecture_is_refused_with_those_supported(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.gguf", "falcon", EMBEDDING, **SIZES)
    with pytest.raises(ModelLoadError, match="'falcon' is not supported") as error:
        GgufCheckpoint(path)
    assert all(name in str(error.value) for name in ARCHITECTURES)


def test_a_missing_metadata_key_is_named(tmp_path: Path) -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "block_count"}
    with pytest.raises(ModelLoadError, match=r"llama\.block_count"):
        GgufCheckpoint(_write(tmp_path / "m.gguf", "llama", EMBEDDING, **sizes))


def test_tensors_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    tensors = {**EMBEDDING, "blk.0.ssm_in.weight": np.zeros((2, 32), np.float32)}
    with pytest.raises(ModelLoadError, match=r"blk\.0\.ssm_in\.weight"):
        GgufCheckpoint(_write(tmp_path / "m.gguf", "llama", tensors, **SIZES))


def test_a_missing_tensor_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    checkpoint = GgufCheckpoint(_write(tmp_path / "m.gguf", "llama", EMBEDDING, **SIZES))
    with pytest.raises(ModelLoadError, match=r"no tensor 'model.embed_token.weight'; nearest: model.embed_tokens"):
        checkpoint.get("model.embed_token.weight")


def test_a_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00002.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match="split GGUF"):
        GgufCheckpoint(path)


def test_an_old_file_with_one_tensor_an_expert_is_read(tmp_path: Path) -> None:
    tensors = dict(EMBEDDING)
    for expert in range(2):
        tensors[f"blk.0.ffn_up.{expert}.weight"] = np.full((32, 32), float(expert), np.float32)
    path = _write(tmp_path / "m.gguf", "llama", tensors, **SIZES, expert_count=2, expert_used_count=1)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config["model_type"] == "mixtral"
    assert checkpoint.get("model.layers.0.block_sparse_moe.experts.1.w3.weight").data.eq(1.0).all()


def test_a_window_makes_a_llama_a_mistral(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.gguf", "llama", EMBEDDING, **SIZES, attention__sliding_window=16)
    config = GgufCheckpoint(path).config
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 16)


def test_loading_keeps_one_tensor_of_the_file_resident(tmp_path: Path) -> None:
    """Reading every tensor of a large file must not leave the file in this process's memory."""
    import psutil

    rows = 4096
    tensors = dict(EMBEDDING)
    tensors |= {f"blk.{i}.ffn_up.weight": np.ones((rows, 1024), np.float32) for i in range(6)}
    checkpoint = GgufCheckpoint(_write(tmp_path / "m.gguf", "llama", tensors, **{**SIZES, "block_count": 6}))
    process, size = psutil.Process(), rows * 1024 * 4
    before = process.memory_info().rss
    for i in range(6):
        assert checkpoint.get(f"model.layers.{i}.mlp.up_proj.weight").data.sum() == rows * 1024
    assert process.memory_info().rss - before < 2.5 * size
    checkpoint.close()
    assert process.memory_info().rss - before < 0.5 * size
