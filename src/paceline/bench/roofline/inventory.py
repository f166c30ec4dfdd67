"""The weights of a loaded model as they lie in memory: their shapes, their bytes, and how they are multiplied."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from paceline.backends.base import Backend, CacheDtype, Matrix, MoELayer
from paceline.backends.lora import Site
from paceline.bench.roofline.model_work import HEAD, Attention, ModelWork, Weight
from paceline.models.loading import LoadedModel, load_model
from paceline.models.spec import ModelSpec
from paceline.quantization.packed import PackedWeight

ITEM = {"f32": 4, "f16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True)
class Laid:
    """How a backend keeps a matrix ``[outputs, inputs]``: its bytes, its kind, and the arithmetic of its products."""

    outputs: int
    inputs: int
    nbytes: int
    kind: str
    arithmetic: str


class WeighingBackend:
    """A backend that also notes how the matrices lie that it is given; everything else is the backend's own."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._laid: dict[int, tuple[Matrix, Laid]] = {}  # the matrix is kept, so its id stays its own

    def matrix(self, parts: Sequence[PackedWeight], sites: Sequence[Site] = ()) -> Matrix:
        """The backend's matrix."""
        matrix = self.backend.matrix(parts, sites)
        self._laid[id(matrix)] = matrix, laid(self.backend, matrix, parts)
        return matrix

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def of(self, matrix: Matrix) -> Laid:
        """How ``matrix`` lies."""
        return self._laid[id(matrix)][1]


def laid(backend: Backend, matrix: Matrix, parts: Sequence[PackedWeight]) -> Laid:
    """How ``backend`` keeps ``parts``, stacked, as ``matrix``."""
    outputs, inputs = sum(part.shape[0] for part in parts), parts[0].shape[1]
    dense = getattr(matrix, "weight", None)
    if isinstance(dense, torch.Tensor):  # the reference backend: plain numbers of one type
        kind = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dense.dtype]
        return Laid(outputs, inputs, dense.nbytes, kind, "bf16" if kind != "f32" else "f32")
    kinds = sorted(matrix.kinds)
    # The native core keeps groupings that its kernels do not have as float32.
    nbytes = sum(part.nbytes if part.kind in kinds else ITEM["f32"] * math.prod(part.shape) for part in parts)
    return Laid(outputs, inputs, nbytes, "+".join(kinds), arithmetic_of(kinds, multiplies_bf16(backend)))


def multiplies_bf16(backend: Backend) -> bool:
    """Whether a backend's kernels multiply bfloat16 as it is."""
    if backend.name != "cpu":
        return False
    from paceline import _cpu

    return bool(dict(_cpu.variants()).get(getattr(backend, "variant", ""), False))


def arithmetic_of(kinds: Sequence[str], bf16: bool) -> str:
    """In what the native kernels multiply weights of ``kinds``: integers for quantized ones; ``bf16``: whether they
    multiply bfloat16 as it is; else float32."""
    if all(kind in ("q4", "q8") for kind in kinds):
        return "int8"
    return "bf16" if bf16 and all(kind == "bf16" for kind in kinds) else "f32"


@dataclass(frozen=True, slots=True)
class Use:
    """A kind of product of the model and the matrices of all layers that are of it. ``matrices[i]`` holds those of one
    operation: one, gate and up, or none where ``layers`` has mixtures of experts."""

    weight: Weight
    kind: str
    matrices: tuple[tuple[Matrix, ...], ...] = ()
    layers: tuple[MoELayer, ...] = ()

    @property
    def name(self) -> str:
        experts = f", {self.weight.chosen} of {self.weight.experts}" if self.weight.experts > 1 else ""
        weight = self.weight
        bits = 8 * weight.nbytes / (weight.outputs * weight.inputs)  # two formats may both have codes of 4 bits
        return f"{weight.part} {weight.outputs} x {weight.inputs} {self.kind} ({bits:.2g} bits){experts}"


def load_weighed(path: Path, backend: Backend) -> tuple[LoadedModel, WeighingBackend]:
    """Loads a model into ``backend``, noting how its weights lie."""
    weighing = WeighingBackend(backend)
    return load_model(path, cast(Backend, weighing)), weighing


def inventory(model: LoadedModel, weighing: WeighingBackend) -> list[Use]:
    """The model's products, equal ones together, in the order of a layer, the head last."""
    found: dict[tuple[str, Laid], list[tuple[Matrix, ...]]] = defaultdict(list)
    last = model.weights.layers[-1]
    behind = {id(matrix) for matrix in (last.output, last.gate, last.moe, model.weights.head, last.down)}
    mixtures: dict[tuple[Laid, int, int], list[MoELayer]] = defaultdict(list)

    def note(part: str, *matrices: Matrix) -> None:
        each = [weighing.of(matrix) for matrix in matrices]
        together = replace(each[0], outputs=sum(m.outputs for m in each), nbytes=sum(m.nbytes for m in each))
        found[part, together].append(matrices)

    for layer in model.weights.layers:
        note("q, k, v", layer.qkv)
        note("attention output", layer.output)
        if layer.moe is not None:
            each = [weighing.of(experts[0]) for experts in (layer.moe.gate, layer.moe.up, layer.moe.down)]
            expert = replace(each[0], outputs=sum(m.outputs for m in each[:2]), nbytes=sum(m.nbytes for m in each))
            mixtures[expert, len(layer.moe.gate), layer.moe.top_k].append(layer.moe)
        else:
            note("gate and up", layer.gate, layer.up)
            note("down", layer.down)
    note(HEAD, model.weights.head)
    uses = [
        Use(_weight(part, of, len(each), any(id(group[0]) in behind for group in each)), of.kind, tuple(each))
        for (part, of), each in found.items()
    ]
    experts = [
        Use(_experts(of, count, chosen, len(each), any(id(moe) in behind for moe in each)), of.kind, layers=tuple(each))
        for (of, count, chosen), each in mixtures.items()
    ]
    return [*uses[:-1], *experts, uses[-1]]


def _weight(part: str, of: Laid, count: int, selected: bool) -> Weight:
    return Weight(part, of.outputs, of.inputs, of.nbytes, of.arithmetic, count, selected=int(selected))


def _experts(of: Laid, experts: int, chosen: int, count: int, selected: bool) -> Weight:
    """Gate, up and down of an expert as one weight: three matrices of ``outputs / 2`` x ``inputs``. Routers are left
    out; they are a thousandth of it."""
    size = of.outputs * 3 // 2
    return Weight("experts", size, of.inputs, of.nbytes, of.arithmetic, count, experts, chosen, int(selected))


def attention_of(spec: ModelSpec, backend: Backend, dtype: CacheDtype | None = None) -> Attention:
    """Attention of a model over keys and values of ``dtype`` (None: the backend's own choice)."""
    dtype = dtype or backend.cache_dtype
    arithmetic = "bf16" if dtype == "bf16" and multiplies_bf16(backend) else "f32"
    windows = tuple(layer.window for layer in spec.layers)
    return Attention(spec.num_heads, spec.num_kv_heads, spec.head_dim, windows, ITEM[dtype], arithmetic)


def work_of(uses: Sequence[Use], spec: ModelSpec, backend: Backend) -> ModelWork:
    """What steps of a loaded model need."""
    return ModelWork([use.weight for use in uses], attention_of(spec, backend))
