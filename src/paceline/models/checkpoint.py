"""Checkpoints: named tensors and a configuration, always in Hugging Face form, whatever the file format.

``open_checkpoint`` picks the reader. Tensors stay in the mapped file until asked for, one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from paceline.errors import ModelLoadError
from paceline.models.checkpoint_files import read_json
from paceline.quantization.packed import Kind, PackedWeight

_KINDS: dict[torch.dtype, Kind] = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
#: Some checkpoints stack the experts of a layer into one 3-D tensor: name -> the per-expert names it stands for.
_STACKED = re.compile(r"^(?P<prefix>.+\.experts)\.(?P<part>gate_up_proj|gate_proj|up_proj|down_proj)(\.weight)?$")


class Checkpoint(Protocol):
    """A model's weights and configuration.

    ``config``: the content of a Hugging Face ``config.json`` (text model only).
    Names are those of the Hugging Face checkpoint; experts are always single matrices
    (``....experts.3.gate_proj.weight``), also where the file stacks them.
    """

    config: dict[str, Any]

    def names(self) -> Iterable[str]:
        """Every tensor name."""

    def __contains__(self, name: object) -> bool: ...

    def get(self, name: str) -> PackedWeight:
        """A matrix ``[rows, columns]``. It may be a view of the file: use it before ``close``.

        Raises ``ModelLoadError`` where there is no such tensor or it is not a matrix."""

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor of any shape as float32 (norm weights, biases); independent of the file."""

    def close(self) -> None:
        """Closes the files and gives their memory back. Views got before must not be used any more."""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Reader for ``path``: a ``.gguf`` file or a Hugging Face folder with safetensors."""
    path = Path(path)
    if path.suffix == ".gguf":
        from paceline.models.checkpoint_gguf import GgufCheckpoint

        return GgufCheckpoint(path)
    if path.is_dir():
        return SafetensorsCheckpoint(path)
    raise ModelLoadError(f"{path} is neither a folder nor a .gguf file")


class SafetensorsCheckpoint:
    """A Hugging Face folder: ``config.json`` and ``model.safetensors``, or shards listed by an index."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: dict[str, Any] = read_json(self.folder / "config.json")
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}  # file name -> open handle
        self._where: dict[str, str] = {}  # tensor -> file name
        self._views: dict[str, tuple[str, int, slice | None]] = {}  # expert matrix -> stacked tensor, expert, its rows
        try:
            self._open_shards()
            for name in list(self._where):
                self._split_experts(name)
        except BaseException:
            self.close()
            raise

    def _open_shards(self) -> None:
        index_path = self.folder / "model.safetensors.index.json"
        single = self.folder / "model.safetensors"
        if single.is_file():
            self._open(single.name)
            self._where = dict.fromkeys(self._files[single.name].keys(), single.name)
            return
        if not index_path.is_file():
            raise ModelLoadError(
                f"{self.folder} has no weights: neither model.safetensors nor model.safetensors.index.json "
                "(pickled .bin weights are not read; convert them to safetensors)"
            )
        self._where = dict(read_json(index_path).get("weight_map", {}))
        shards = sorted(set(self._where.values()))
        missing = [name for name in shards if not (self.folder / name).is_file()]
        if missing:
            raise ModelLoadError(
                f"{self.folder} lacks {len(missing)} of {len(shards)} weight files: {', '.join(missing[:5])}; "
                "the download is incomplete"
            )
        for name in shards:
            self._open(name)
        for tensor, shard in self._where.items():
            if tensor not in self._known(shard):
                raise ModelLoadError(f"{self.folder / shard} has no tensor {tensor!r}, which the index says it has")

    def _open(self, name: str) -> None:
        try:
            handle = safe_open(str(self.folder / name), framework="pt", device="cpu")
            self._files[name] = self._stack.enter_context(handle)
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(
                f"cannot read {self.folder / name}: {error}; the file is truncated or damaged, download it again"
            ) from error

    def _known(self, shard: str) -> set[str]:
        return set(self._files[shard].keys())

    def _split_experts(self, name: str) -> None:
        match = _STACKED.match(name)
        if match is None:
            return
        shape = self._files[self._where[name]].get_slice(name).get_shape()
        if len(shape) != 3:
            return
        experts, rows, _ = shape
        halves: dict[str, slice | None] = {match["part"]: None}
        if match["part"] == "gate_up_proj":
            halves = {"gate_proj": slice(0, rows // 2), "up_proj": slice(rows // 2, rows)}
        for part, where in halves.items():
            for expert in range(experts):
                self._views[f"{match['prefix']}.{expert}.{part}.weight"] = (name, expert, where)

    def names(self) -> list[str]:
        stacked = {name for name, _, _ in self._views.values()}
        return [name for name in self._where if name not in stacked] + list(self._views)

    def __contains__(self, name: object) -> bool:
        return name in self._views or name in self._where

    def _load(self, name: str) -> torch.Tensor:
        if name in self._views:
            stacked, expert, rows = self._views[name]
            part: torch.Tensor = self._files[self._where[stacked]].get_slice(stacked)[expert : expert + 1]
            return part[0] if rows is None else part[0, rows]
        if name not in self._where:
            raise missing_tensor(self.folder, name, self.names())
        tensor: torch.Tensor = self._files[self._where[name]].get_tensor(name)
        return tensor

    def get(self, name: str) -> PackedWeight:
        tensor = self._load(name)
        if tensor.dim() != 2:
            raise ModelLoadError(f"{name} has shape {tuple(tensor.shape)} where a matrix is needed")
        if tensor.dtype not in _KINDS:
            raise ModelLoadError(
                f"{name} is stored as {tensor.dtype}; supported types: {', '.join(map(str, _KINDS))} "
                "(a quantized checkpoint of this kind cannot be loaded yet)"
            )
        return PackedWeight(_KINDS[tensor.dtype], tensor.contiguous())

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._load(name).to(torch.float32, copy=True)

    def close(self) -> None:
        self._files.clear()
        self._stack.close()


def missing_tensor(source: Path, name: str, names: Iterable[str]) -> ModelLoadError:
    """The error for a tensor that is not there, with the closest names that are."""
    import difflib

    near = difflib.get_close_matches(name, list(names), n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return ModelLoadError(f"{source} has no tensor {name!r}{hint}")
