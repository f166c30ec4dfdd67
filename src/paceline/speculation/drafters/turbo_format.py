"""The folder of a trained speculator: ``config.json`` (architecture, the target it was made for, how it was trained)
and ``model.safetensors``. The one place that knows its names and shapes.

Matrices are bfloat16 (format 1), or codes of 8 bits with a float16 scale for each group of columns (format 2): then
``NAME`` holds the codes and ``NAME.scale`` the scales, which are just what an engine that computes in q8 lays out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from paceline.backends.base import Activation, AttentionLayer, CacheDtype, CacheSpec, RopeSpec
from paceline.errors import ModelLoadError
from paceline.models.spec import ModelSpec
from paceline.quantization.packed import PackedWeight
from paceline.quantization.rounding import GROUP, quantize

#: How matrices are stored, and the format that has it.
Stored = Literal["bf16", "q8"]
FORMATS: dict[Stored, str] = {"bf16": "paceline-turbo-1", "q8": "paceline-turbo-2"}
MOST_POSITIONS = 16  # of a block
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class TargetMark(msgspec.Struct, frozen=True, kw_only=True):
    """What a speculator must find in the model that it drafts for. ``name`` is for messages only: quantized files of
    one model have many."""

    name: str
    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int

    @staticmethod
    def of(spec: ModelSpec, name: str) -> TargetMark:
        return TargetMark(
            name=name,
            family=spec.family,
            vocab_size=spec.vocab_size,
            hidden_size=spec.hidden_size,
            num_layers=spec.num_layers,
        )

    @property
    def shape(self) -> dict[str, Any]:
        return {key: value for key, value in msgspec.structs.asdict(self).items() if key != "name"}

    @property
    def shape_hash(self) -> str:
        """The same for all files of one architecture."""
        return hashlib.sha256(msgspec.json.encode(self.shape, order="sorted")).hexdigest()[:16]


class SpeculatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One decoder layer that predicts ``positions`` tokens in one pass. Sizes are counts.

    ``layers``: of the target, whose residual streams it reads (ascending). ``window``: known tokens that it sees.
    ``vocab_size``: tokens that it can propose; the target's ids of them are the tensor ``tokens``. ``card``: what it
    was trained on and how, for people. ``target_norm``: the first gains of the target's last norm, by which a
    speculator that nobody named is found for its target: quantized files of one model keep them.
    """

    target: TargetMark
    layers: tuple[int, ...]
    positions: int
    vocab_size: int
    markov_rank: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int = 512
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    activation: Activation = "silu"
    format: str = FORMATS["bf16"]
    stored: Stored = "bf16"
    shape_hash: str = ""
    target_norm: tuple[float, ...] = ()
    card: dict[str, Any] = {}

    @property
    def state_width(self) -> int:
        """Columns of the target's hidden states side by side."""
        return len(self.layers) * self.target.hidden_size

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def rope(self) -> RopeSpec:
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        return RopeSpec(tuple((1.0 / self.rope_theta**exponents).tolist()))

    def cache_spec(self, dtype: CacheDtype) -> CacheSpec:
        return CacheSpec(self.num_kv_heads, self.head_dim, (0,), (self.window,), dtype=dtype)

    def attention(self) -> AttentionLayer:
        return AttentionLayer(
            layer=0,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            window=self.window,
            rope=self.rope,
            norm_eps=self.norm_eps,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the file."""
        hidden, states, wide = self.hidden_size, self.state_width, self.intermediate_size
        return {
            "tokens": (self.vocab_size,),  # int64, the target's id of each draft token, ascending
            "embedding_norm": (self.target.hidden_size,),
            "state_scale": (states,),  # multiplies hidden states, so that all columns weigh alike in their norm
            "state_norm": (states,),
            "masks": (self.positions - 1, states),  # added to the scaled states of the last known token
            "from_embedding": (hidden, self.target.hidden_size),
            "from_states": (hidden, states),
            "attention_norm": (hidden,),
            "qkv": (self.q_size + 2 * self.kv_size, hidden),
            "output": (hidden, self.q_size),
            "mlp_norm": (hidden,),
            "gate": (wide, hidden),
            "up": (wide, hidden),
            "down": (hidden, wide),
            "final_norm": (hidden,),
            "head": (self.vocab_size, hidden),
            "survival": (1, hidden),
            "markov_previous": (self.vocab_size, self.markov_rank),
            "markov_next": (self.vocab_size, self.markov_rank),
        }

    def check(self) -> None:
        """Raises ``ModelLoadError`` for sizes that cannot be."""
        rules = [
            ("format", self.format == FORMATS[self.stored], f"{FORMATS[self.stored]!r}"),
            ("positions", 2 <= self.positions <= MOST_POSITIONS, f"between 2 and {MOST_POSITIONS}"),
            ("vocab_size", 1 <= self.vocab_size <= self.target.vocab_size, f"1 to {self.target.vocab_size}"),
            ("markov_rank", self.markov_rank >= 1, "at least 1"),
            ("window", self.window >= 16, "at least 16"),
            ("num_heads", self.num_kv_heads > 0 and self.num_heads % self.num_kv_heads == 0, "whole groups of heads"),
            ("head_dim", self.head_dim > 0 and self.head_dim % 2 == 0, "even"),
            ("layers", bool(self.layers) and list(self.layers) == sorted(set(self.layers)), "ascending, one or more"),
            (
                "layers",
                all(0 <= layer < self.target.num_layers for layer in self.layers),
                f"layers of the target, 0 to {self.target.num_layers - 1}",
            ),
            ("shape_hash", self.shape_hash in ("", self.target.shape_hash), "that of the target's shape"),
        ]
        for name, good, rule in rules:
            if not good:
                raise ModelLoadError(f"speculator: {name} must be {rule}, got {getattr(self, name)!r}")

    def check_target(self, spec: ModelSpec, name: str) -> None:
        """Refuses a target that it was not made for. Raises ``ModelLoadError`` naming what differs."""
        mine, other = self.target.shape, TargetMark.of(spec, name).shape
        wrong = [f"{key} {other[key]} instead of {mine[key]}" for key in mine if mine[key] != other[key]]
        if wrong:
            raise ModelLoadError(
                f"the speculator was trained for {self.target.name}, and {name} has {', '.join(wrong)}: "
                "train one for this model, or name the folder of one that was"
            )


def write_speculator(
    folder: Path, config: SpeculatorConfig, tensors: Mapping[str, torch.Tensor], stored: Stored = "bf16"
) -> None:
    """Writes the folder, matrices as ``stored`` says and the rest as the floats that they are when they are used."""
    config = msgspec.structs.replace(config, shape_hash=config.target.shape_hash, stored=stored, format=FORMATS[stored])
    config.check()
    kept: dict[str, torch.Tensor] = {}
    for name, shape in config.shapes().items():
        tensor = tensors[name].detach().cpu()
        assert tuple(tensor.shape) == shape, f"{name} is {tuple(tensor.shape)}, not {shape}"
        if name == "tokens":
            kept[name] = tensor.long()
        elif _coded(name, shape, stored):
            packed = quantize(tensor, "q8")
            assert packed.scale is not None
            kept[name], kept[f"{name}{SCALE}"] = packed.data, packed.scale
        else:
            kept[name] = tensor.to(torch.bfloat16 if name in _MATRICES else torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in kept.items()}, folder / f"{WEIGHTS}.partial")
    (folder / f"{WEIGHTS}.partial").replace(folder / WEIGHTS)
    (folder / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")


_MATRICES = frozenset(("from_embedding", "from_states", "qkv", "output", "gate", "up", "down", "head"))
SCALE = ".scale"  # behind the name of a matrix, that of its scales


def _coded(name: str, shape: tuple[int, ...], stored: Stored) -> bool:
    """Whether a tensor is stored as codes: matrices, and the head's last row, in whole groups of columns."""
    return stored == "q8" and (name in _MATRICES or name == "survival") and shape[1] % GROUP == 0


def read_speculator(folder: str | Path) -> tuple[SpeculatorConfig, dict[str, torch.Tensor]]:
    """Configuration and tensors (float32, ``tokens`` int64). Raises ``ModelLoadError`` for a folder that is not a
    speculator, or a damaged one."""
    config, stored = read_stored(folder)
    return config, {
        name: tensor.dequantize() if isinstance(tensor, PackedWeight) else tensor for name, tensor in stored.items()
    }


def read_stored(folder: str | Path) -> tuple[SpeculatorConfig, dict[str, torch.Tensor | PackedWeight]]:
    """``read_speculator``, with matrices that are stored as codes left as they are."""
    folder = Path(folder)
    config = read_config(folder)
    try:
        found: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"cannot read {folder / WEIGHTS}: {error}") from error

    def tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        there = found.get(name)
        if there is None or tuple(there.shape) != shape:
            raise ModelLoadError(
                f"{folder / WEIGHTS}: tensor {name!r} should have shape {list(shape)} by {CONFIG}, "
                f"{'it is not there' if there is None else f'it has {list(there.shape)}'}"
            )
        if dtype is not None and there.dtype != dtype:
            raise ModelLoadError(f"{folder / WEIGHTS}: tensor {name!r} should be {dtype}, it is {there.dtype}")
        return there

    tensors: dict[str, torch.Tensor | PackedWeight] = {}
    for name, shape in config.shapes().items():
        if _coded(name, shape, config.stored):
            codes = tensor(name, shape, torch.uint8)
            scale = tensor(f"{name}{SCALE}", (shape[0], shape[1] // GROUP), torch.float16)
            tensors[name] = PackedWeight("q8", codes, scale, None, GROUP)
        elif name == "tokens":
            tensors[name] = _checked_tokens(tensor(name, shape), config, folder)
        else:
            tensors[name] = tensor(name, shape).float()
    return config, tensors


def _checked_tokens(tokens: torch.Tensor, config: SpeculatorConfig, folder: Path) -> torch.Tensor:
    if not bool((tokens.diff() > 0).all()) or not 0 <= int(tokens[0]) <= int(tokens[-1]) < config.target.vocab_size:
        raise ModelLoadError(
            f"{folder / WEIGHTS}: 'tokens' must be ascending ids below the target's {config.target.vocab_size}"
        )
    return tokens


def read_config(folder: Path) -> SpeculatorConfig:
    """Raises ``ModelLoadError`` where there is none, or it is wrong."""
    try:
        config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=SpeculatorConfig)
    except OSError as error:
        raise ModelLoadError(f"{folder} is not the folder of a speculator: {error}") from error
    except msgspec.DecodeError as error:
        raise ModelLoadError(f"{folder / CONFIG} does not describe a speculator of this engine: {error}") from error
    config.check()
    return config
