"""From a checkpoint to a model laid out for a backend, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from paceline.backends.base import AttentionLayer, Backend, Matrix, MoELayer, Ops, Vector
from paceline.backends.lora import Site
from paceline.errors import ModelLoadError
from paceline.models import decoder
from paceline.models.checkpoint import Checkpoint, open_checkpoint
from paceline.models.decoder import LayerWeights, ModelWeights
from paceline.models.families import model_spec
from paceline.models.spec import LayerSpec, ModelSpec, MoESpec
from paceline.quantization.packed import PackedWeight

#: Where checkpoints put the decoder: causal models, Gemma 3's multimodal wrapper (transformers 5 and 4), bare models.
_PREFIXES = ("model.", "model.language_model.", "language_model.model.", "")


@dataclass(slots=True)
class LoadedModel:
    """A model ready to be compiled: ``backend.compile(model.build, max_rows)``."""

    spec: ModelSpec
    weights: ModelWeights
    config: dict[str, Any]  # the checkpoint's Hugging Face config
    weights_bytes: int  # of all matrices as the checkpoint packs them
    streamed_bytes: int  # of them, those that a step of one row reads
    adapter_shapes: Mapping[Site, tuple[int, int]] = field(
        default_factory=dict
    )  # (out, in) of what adapters can update

    def build(self, ops: Ops) -> None:
        """One step of the model, for ``Backend.compile``."""
        decoder.build(ops, self.spec, self.weights)

    def build_with(self, capture: Iterable[int]) -> Callable[[Ops], None]:
        """``build`` of a program whose output ``hidden`` has the residual stream behind these layers, whatever their
        order here, in ascending order: float32 ``[T, layers * hidden_size]``. Nothing is loaded again.

        Raises ``ModelLoadError`` for a layer that the model does not have."""
        layers = frozenset(capture)
        if not layers <= set(range(self.spec.num_layers)):
            raise ModelLoadError(
                f"hidden states of layers {sorted(layers)} are asked for, but the model has layers 0 to "
                f"{self.spec.num_layers - 1}: this drafter was made for another model"
            )
        return partial(decoder.build, spec=self.spec, weights=self.weights, capture=layers)


def load_model(path: str | Path, backend: Backend, *, context_length: int | None = None) -> LoadedModel:
    """Loads the checkpoint at ``path`` (a folder or a ``.gguf`` file) into ``backend``.

    ``context_length``: the context to serve, in tokens; None: the longest that the checkpoint supports. Raises
    ``ModelLoadError`` for an unsupported architecture and for tensors that are missing or have the wrong shape.
    """
    checkpoint = open_checkpoint(path)
    try:
        return load_checkpoint(checkpoint, backend, context_length=context_length)
    finally:
        checkpoint.close()


def load_checkpoint(checkpoint: Checkpoint, backend: Backend, *, context_length: int | None = None) -> LoadedModel:
    """``load_model`` for an open checkpoint, which stays open."""
    config = checkpoint.config
    spec = model_spec(config, context_length)
    loader = _Loader(checkpoint, backend, spec)
    weights = loader.model()
    return LoadedModel(spec, weights, config, loader.weights_bytes, loader.streamed_bytes, loader.adapter_shapes)


class _Loader:
    """Moves tensors from checkpoint to backend; at most one matrix exists twice at any time."""

    def __init__(self, checkpoint: Checkpoint, backend: Backend, spec: ModelSpec) -> None:
        self.checkpoint = checkpoint
        self.backend = backend
        self.spec = spec
        self.weights_bytes = 0
        self.streamed_bytes = 0
        self.adapter_shapes: dict[Site, tuple[int, int]] = {}
        embedding = f"{spec.names.embedding}.weight"
        self.prefix = next((prefix for prefix in _PREFIXES if prefix + embedding in checkpoint), _PREFIXES[0])

    def model(self) -> ModelWeights:
        spec, names = self.spec, self.spec.names
        table = (spec.vocab_size, spec.hidden_size)
        # A step reads one row of an embedding table that is not also the head: next to nothing.
        embedding = self.matrix([(self.prefix + names.embedding, table)], read=float(spec.tied_head))
        head = embedding if spec.tied_head else self.matrix([(self.head_name(), table)])
        final_norm = self.norm(self.prefix + names.final_norm, spec.hidden_size)
        layers = [self.layer(index, layer) for index, layer in enumerate(spec.layers)]
        return ModelWeights(embedding, layers, final_norm, head)

    def layer(self, index: int, layer: LayerSpec) -> LayerWeights:
        spec, names, at = self.spec, self.spec.names, f"{self.prefix}layers.{index}."
        hidden, widths = spec.hidden_size, (spec.q_size, spec.kv_size, spec.kv_size)
        weights = LayerWeights(
            attention=self.attention(index, layer, at),
            qkv=self.place(self.parts([at + name for name in names.qkv], widths), sites=[(index, p) for p in "qkv"]),
            output=self.matrix([(at + names.output, (hidden, spec.q_size))], sites=[(index, "o")]),
        )
        if spec.qkv_bias:
            weights.qkv_bias = self.stacked_bias([at + name for name in names.qkv], widths)
        if spec.output_bias:
            weights.output_bias = self.stacked_bias([at + names.output], (hidden,))
        if spec.pre_norm:
            weights.attention_norm = self.norm(at + names.attention_norm, hidden)
            weights.mlp_norm = self.norm(at + names.mlp_norm, hidden)
        if spec.post_norm:
            weights.attention_post_norm = self.norm(at + names.attention_post_norm, hidden)
            weights.mlp_post_norm = self.norm(at + names.mlp_post_norm, hidden)
        if layer.moe is not None:
            weights.moe = self.moe(layer.moe, at)
        else:
            gate, up = self.parts([at + name for name in names.gate_up], (spec.intermediate_size,) * 2)
            weights.gate, weights.up = (
                self.place([gate], sites=[(index, "gate")]),
                self.place([up], sites=[(index, "up")]),
            )
            down = (at + names.down, (hidden, spec.intermediate_size))
            weights.down = self.matrix([down], sites=[(index, "down")])
        return weights

    def attention(self, index: int, layer: LayerSpec, at: str) -> AttentionLayer:
        spec, names = self.spec, self.spec.names
        q_norm = k_norm = None
        if spec.qk_norm != "none":
            full = spec.qk_norm == "full"
            q_norm = self.norm(at + names.q_norm, spec.q_size if full else spec.head_dim)
            k_norm = self.norm(at + names.k_norm, spec.kv_size if full else spec.head_dim)
        return AttentionLayer(
            layer=index,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            scale=spec.attention_scale,
            window=layer.window,
            softcap=spec.attention_softcap,
            rope=layer.rope,
            q_norm=q_norm,
            k_norm=k_norm,
            norm_eps=spec.norm_eps,
        )

    def moe(self, moe: MoESpec, at: str) -> MoELayer:
        names, hidden, width = self.spec.names, self.spec.hidden_size, moe.intermediate_size
        read = moe.top_k / moe.num_experts

        def experts(name: str, shape: tuple[int, int]) -> list[Matrix]:
            ids = range(moe.num_experts)
            return [self.matrix([(at + name.format(expert=expert), shape)], read) for expert in ids]

        return MoELayer(
            router=self.matrix([(at + names.router, (moe.num_experts, hidden))]),
            gate=experts(names.expert_gate, (width, hidden)),
            up=experts(names.expert_up, (width, hidden)),
            down=experts(names.expert_down, (hidden, width)),
            top_k=moe.top_k,
            normalize=moe.normalize,
            activation=self.spec.activation,
        )

    def parts(self, names: list[str], widths: tuple[int, ...]) -> list[PackedWeight]:
        """Tensors of ``widths`` outputs each, also where the checkpoint fused them into one."""
        hidden = self.spec.hidden_size
        if len(names) > 1:
            return [self.packed(name, (width, hidden)) for name, width in zip(names, widths, strict=True)]
        fused, ends = self.packed(names[0], (sum(widths), hidden)), list(accumulate(widths))
        return [fused.rows(end - width, end) for end, width in zip(ends, widths, strict=True)]

    def stacked_bias(self, names: list[str], widths: tuple[int, ...]) -> Vector:
        if len(names) == 1:
            widths = (sum(widths),)
        parts = [self.tensor(f"{name}.bias", (width,)) for name, width in zip(names, widths, strict=True)]
        return self.backend.vector(torch.cat([part.float() for part in parts]))

    def norm(self, name: str, width: int) -> Vector:
        return self.backend.vector(self.tensor(f"{name}.weight", (width,)).float() + self.spec.norm_offset)

    def matrix(self, parts: list[tuple[str, tuple[int, int]]], read: float = 1.0, sites: Sequence[Site] = ()) -> Matrix:
        """A matrix from named parts of known shapes; ``read``: the share of it that a step of one row reads."""
        return self.place([self.packed(name, shape) for name, shape in parts], read, sites)

    def place(self, parts: list[PackedWeight], read: float = 1.0, sites: Sequence[Site] = ()) -> Matrix:
        """The parts as one matrix; ``sites``: their names for adapters, if any."""
        self.adapter_shapes.update(zip(sites, (part.shape for part in parts), strict=False))
        size = sum(part.nbytes for part in parts)
        self.weights_bytes += size
        self.streamed_bytes += int(size * read)
        return self.backend.matrix(parts, sites)

    def packed(self, name: str, shape: tuple[int, int]) -> PackedWeight:
        name = f"{name}.weight"
        self._require(name, shape)
        packed = self.checkpoint.get(name)
        self._check(name, packed.shape, shape)
        return packed

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self._require(name, shape)
        tensor = self.checkpoint.get_tensor(name)
        self._check(name, tuple(tensor.shape), shape)
        return tensor

    def head_name(self) -> str:
        """The head stands beside the decoder, not in it: ``lm_head`` or, in a wrapper, ``language_model.lm_head``."""
        head = self.spec.names.head
        wrapped = f"language_model.{head}"
        return wrapped if f"{wrapped}.weight" in self.checkpoint else head

    def _require(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self.checkpoint:
            raise ModelLoadError(
                f"the checkpoint has no tensor {name!r}, expected with shape {list(shape)}; "
                "its config.json does not describe it, or a file of it is missing"
            )

    def _check(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise ModelLoadError(
                f"tensor {name!r} has shape {list(found)}, expected {list(expected)} from the checkpoint's config.json"
            )
