"""Hugging Face folders: shards, dtypes, stacked experts, and what is wrong with a broken one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from paceline.errors import ModelLoadError
from paceline.models.checkpoint import SafetensorsCheckpoint, open_checkpoint


def make(folder: Path, shards: list[dict[str, torch.Tensor]]) -> Path:
    """A folder with one weight file, or several and their index."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors")
        return folder
    index: dict[str, str] = {}
    for number, tensors in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, folder / name)
        index.update(dict.fromkeys(tensors, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_tensors_of_all_shards_are_found(tmp_path: Path) -> None:
    a, b = torch.randn(4, 8), torch.randn(3)
    checkpoint = open_checkpoint(make(tmp_path, [{"a.weight": a}, {"b.weight": b}]))
    assert isinstance(checkpoint, SafetensorsCheckpoint)
    assert sorted(checkpoint.names()) == ["a.weight", "b.weight"]
    assert "a.weight" in checkpoint and "c.weight" not in checkpoint
    assert torch.equal(checkpoint.get("a.weight").data, a)
    assert torch.equal(checkpoint.get_tensor("b.weight"), b)
    assert checkpoint.config == {"model_type": "llama"}
    checkpoint.close()


@pytest.mark.parametrize(("dtype", "kind"), [(torch.float32, "f32"), (torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_matrices_keep_their_dtype_and_vectors_become_float32(tmp_path: Path, dtype: torch.dtype, kind: str) -> None:
    matrix, vector = torch.randn(4, 8).to(dtype), torch.randn(8).to(dtype)
    checkpoint = SafetensorsCheckpoint(make(tmp_path, [{"m": matrix, "v": vector}]))
    weight = checkpoint.get("m")
    assert weight.kind == kind and torch.equal(weight.data, matrix)
    assert checkpoint.get_tensor("v").dtype is torch.float32
    assert torch.equal(checkpoint.get_tensor("v"), vector.float())


def test_stacked_experts_are_given_one_by_one(tmp_path: Path) -> None:
    gate_up, down = torch.randn(3, 10, 4), torch.randn(3, 4, 5)
    prefix = "model.layers.0.mlp.experts"
    checkpoint = SafetensorsCheckpoint(
        make(tmp_path, [{f"{prefix}.gate_up_proj": gate_up, f"{prefix}.down_proj": down}])
    )
    assert len(list(checkpoint.names())) == 9
    for expert in range(3):
        assert torch.equal(checkpoint.get(f"{prefix}.{expert}.gate_proj.weight").data, gate_up[expert, :5])
        assert torch.equal(checkpoint.get(f"{prefix}.{expert}.up_proj.weight").data, gate_up[expert, 5:])
        assert torch.equal(checkpoint.get(f"{prefix}.{expert}.down_proj.weight").data, down[expert])


def test_a_vector_is_no_matrix(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(make(tmp_path, [{"v": torch.zeros(8)}]))
    with pytest.raises(ModelLoadError, match=r"v has shape \(8,\)"):
        checkpoint.get("v")


def test_an_unknown_dtype_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(make(tmp_path, [{"m": torch.zeros(2, 2, dtype=torch.int32)}]))
    with pytest.raises(ModelLoadError, match=r"torch\.int32.*supported"):
        checkpoint.get("m")


def test_a_missing_tensor_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(make(tmp_path, [{"model.norm.weight": torch.zeros(2)}]))
    with pytest.raises(ModelLoadError, match=r"no tensor 'model.norms.weight'; nearest: model.norm.weight"):
        checkpoint.get_tensor("model.norms.weight")


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    make(tmp_path, [{"a": torch.zeros(2)}, {"b": torch.zeros(2)}, {"c": torch.zeros(2)}])
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"lacks 1 of 3 weight files: model-00002-of-00003.safetensors"):
        SafetensorsCheckpoint(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    make(tmp_path, [{"a": torch.zeros(1000)}])
    whole = (tmp_path / "model.safetensors").read_bytes()
    for size in (0, 4, 50, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(ModelLoadError, match=r"model\.safetensors.*download it again"):
            SafetensorsCheckpoint(tmp_path)


def test_an_index_that_promises_too_much_is_noticed_at_once(tmp_path: Path) -> None:
    make(tmp_path, [{"a": torch.zeros(2)}, {"b": torch.zeros(2)}])
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["c"] = index["weight_map"]["a"]
    path.write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match="no tensor 'c', which the index says it has"):
        SafetensorsCheckpoint(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no config.json"),
        ({"config.json": "{"}, "cannot read .*config.json"),
        ({"config.json": "{}"}, "has no weights"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "convert them to safetensors"),
    ],
)
def test_what_is_no_model_folder_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelLoadError, match=message):
        SafetensorsCheckpoint(tmp_path)


def test_a_path_that_is_neither_folder_nor_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"neither a folder nor a \.gguf file"):
        open_checkpoint(tmp_path / "model.bin")
