"""A GGUF file presented as a Hugging Face checkpoint: configuration, names, row order and norm weights undone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paceline.errors import ModelLoadError
from paceline.models.checkpoint import missing_tensor
from paceline.models.gguf_config import hf_config
from paceline.models.gguf_names import NOT_WEIGHTS, hf_names
from paceline.quantization.gguf import pack
from paceline.quantization.gguf_file import GgufFile, GgufTensor
from paceline.quantization.packed import PackedWeight

#: Model types whose q and k rows GGUF orders for rope on pairs (2i, 2i + 1); Hugging Face pairs (i, i + d/2).
_PERMUTED = {"llama", "mistral", "mixtral", "smollm3", "granite"}
#: Model types whose norm is ``x * (1 + weight)``; GGUF stores ``1 + weight``.
_NORM_PLUS_ONE = {"gemma2", "gemma3_text"}


@dataclass(frozen=True, slots=True)
class _Part:
    tensor: GgufTensor
    expert: int | None = None  # index into a stacked tensor


class GgufCheckpoint:
    """See ``Checkpoint``. Quantized matrices keep the file's blocks exactly (no second rounding)."""

    def __init__(self, path: str | Path) -> None:
        self._file = GgufFile(path)
        try:
            self._read_config()
            self._parts = self._name_tensors()
        except BaseException:
            self._file.close()
            raise
        self._previous: GgufTensor | None = None

    def _read_config(self) -> None:
        file = self._file
        if int(file.metadata.get("split.count", 1)) > 1:
            raise ModelLoadError(
                f"{file.path} is one part of a split GGUF; join the parts first (llama-gguf-split --merge)"
            )
        factors = {name: _float32(file, file.tensors[name]) for name in NOT_WEIGHTS if name in file.tensors}
        shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
        try:
            self.config: dict[str, Any] = hf_config(file.metadata, shapes, factors)
        except ModelLoadError as error:
            raise ModelLoadError(f"{file.path}: {error}") from error
        file.metadata.clear()  # the vocabulary: megabytes that nobody asks for again

    def _name_tensors(self) -> dict[str, _Part]:
        parts: dict[str, _Part] = {}
        experts = self.config.get("num_local_experts") or self.config.get("num_experts") or 0
        unknown = []
        for tensor in self._file.tensors.values():
            if tensor.name in NOT_WEIGHTS:
                continue
            names = hf_names(tensor.name, self.config["model_type"], experts)
            if names is None:
                unknown.append(tensor.name)
            elif len(tensor.shape) == 3:
                if tensor.shape[0] != len(names):
                    raise ModelLoadError(f"{tensor.name} has {tensor.shape[0]} experts, the metadata says {experts}")
                parts.update((name, _Part(tensor, expert)) for expert, name in enumerate(names))
            else:
                parts[names[0]] = _Part(tensor)
        if unknown:
            raise ModelLoadError(
                f"{self._file.path} has {len(unknown)} tensors that a {self.config['model_type']} model does not have: "
                f"{', '.join(unknown[:5])}"
            )
        return parts

    def names(self) -> list[str]:
        return list(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def _find(self, name: str) -> _Part:
        if name not in self._parts:
            raise missing_tensor(self._file.path, name, self._parts)
        part = self._parts[name]
        # The tensor asked for before has been consumed by now: keep one tensor of the file resident, not all of it.
        if self._previous is not None and self._previous is not part.tensor:
            self._file.drop(self._previous)
        self._previous = part.tensor
        return part

    def get(self, name: str) -> PackedWeight:
        part = self._find(name)
        tensor = part.tensor
        data, shape = self._file.data(tensor), tensor.shape
        if part.expert is not None:
            shape, size = shape[1:], data.size // shape[0]
            data = data[part.expert * size : (part.expert + 1) * size]
        if len(shape) != 2:
            raise ModelLoadError(f"{name} has shape {shape} where a matrix is needed")
        weight = pack(data, tensor.type_id, *shape)
        heads = self._permuted_heads(name)
        return weight if heads == 0 else _unpermute_packed(weight, heads)

    def get_tensor(self, name: str) -> torch.Tensor:
        part = self._find(name)
        if part.expert is not None or len(part.tensor.shape) == 2:
            return self.get(name).dequantize().clone()
        values = torch.from_numpy(_float32(self._file, part.tensor))
        heads = self._permuted_heads(name)
        if heads:
            values = _unpermute(values, heads)
        if self.config["model_type"] in _NORM_PLUS_ONE and name.endswith("norm.weight"):
            values = values - 1.0
        return values

    def _permuted_heads(self, name: str) -> int:
        """Number of heads whose rows have to be put back in order; 0 for a tensor that was not permuted."""
        if self.config["model_type"] not in _PERMUTED:
            return 0
        if ".q_proj." in name:
            return int(self.config["num_attention_heads"])
        return int(self.config["num_key_value_heads"]) if ".k_proj." in name else 0

    def close(self) -> None:
        self._file.close()


def _float32(file: GgufFile, tensor: GgufTensor) -> np.ndarray:
    """A dense tensor of any shape as float32, copied out of the file."""
    dense = pack(file.data(tensor), tensor.type_id, 1, int(np.prod(tensor.shape)))
    values: np.ndarray = dense.dequantize().numpy().reshape(tensor.shape).copy()
    return values


def _unpermute(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from (0, 1) pairs to halves: row ``2i + half`` becomes row ``half * d/2 + i``."""
    pairs = rows.view(heads, rows.shape[0] // heads // 2, 2, -1)
    return pairs.transpose(1, 2).reshape(rows.shape)


def _unpermute_packed(weight: PackedWeight, heads: int) -> PackedWeight:
    return PackedWeight(
        weight.kind,
        _unpermute(weight.data, heads),
        None if weight.scale is None else _unpermute(weight.scale, heads),
        None if weight.minimum is None else _unpermute(weight.minimum, heads),
        weight.group_size,
    )
