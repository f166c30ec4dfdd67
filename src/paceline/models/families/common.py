"""What the families share: the Llama layout, read from a Hugging Face config dict, with everything overridable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.backends.base import Activation, RopeSpec
from paceline.errors import ModelLoadError
from paceline.models.rope import max_context, rope_parameters, rope_spec
from paceline.models.spec import LayerSpec, ModelSpec, MoESpec

Config = Mapping[str, Any]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


class ConfigReader:
    """A config dict and the context to serve, with the questions that every family asks."""

    def __init__(
        self,
        config: Config,
        context_length: int | None,
        *,
        theta: float = 10_000.0,
        head_dim: int | None = None,
        window: int | None = None,
    ) -> None:
        """``theta``, ``head_dim`` and ``window`` are the family's defaults where the config is silent."""
        self.config = config
        self.window = config.get("sliding_window", window)  # null switches it off, absent means the default
        self.family = str(config.get("model_type"))
        self.default_theta = theta
        self.num_layers = self.size("num_hidden_layers")
        self.num_heads = self.size("num_attention_heads")
        self.head_dim = int(self.get("head_dim", head_dim or self.size("hidden_size") // self.num_heads))
        self.max_context = max_context({"max_position_embeddings": self.size("max_position_embeddings")}, self._rope())
        self.context_length = context_length or self.max_context
        if not 0 < self.context_length <= self.max_context:
            raise ModelLoadError(
                f"context length {self.context_length} is out of range: this model supports 1 to {self.max_context} "
                "tokens; ask for less, or add a rope scaling to its config"
            )

    def get(self, key: str, default: Any = None) -> Any:
        """The config's value, or ``default`` where it is absent or null."""
        value = self.config.get(key)
        return default if value is None else value

    def size(self, key: str) -> int:
        """A count that the config must have."""
        value = self.config.get(key)
        if not isinstance(value, int) or value <= 0:
            raise ModelLoadError(f"the config of this {self.family!r} model needs a positive {key!r}, found {value!r}")
        return value

    def refuse(self, key: str, what: str) -> None:
        """Stops at an option of the family that the decoder does not have."""
        if self.config.get(key):
            raise ModelLoadError(f"{self.family!r} model with {key}={self.config[key]!r}: {what} is not supported")

    def activation(self, key: str = "hidden_act", default: str = "silu") -> Activation:
        """The MLP's activation by Hugging Face's name."""
        name = self.get(key, default)
        if name not in ACTIVATIONS:
            raise ModelLoadError(f"activation {name!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def _rope(self, layer_type: str | None = None) -> dict[str, Any]:
        return rope_parameters(self.config, self.default_theta, layer_type)

    def rope(self, parameters: Mapping[str, Any] | None = None) -> RopeSpec:
        """The rotation of the model's layers, or of ``parameters``."""
        return rope_spec(parameters or self._rope(), self.head_dim, self.context_length, self.config)

    def windows(self, sliding: Sequence[bool]) -> list[int]:
        """Window of each layer, given which ones slide. A window that the served context never exceeds is no window:
        the layer then shares blocks with the global ones."""
        size = int(self.window or 0)
        size = 0 if size >= self.context_length else size
        return [size if slides else 0 for slides in sliding]

    def sliding_layers(self, default: Sequence[bool]) -> list[bool]:
        """Which layers slide: ``layer_types`` where the config lists them, else ``default``."""
        types = self.get("layer_types")
        sliding = list(default) if types is None else [kind == "sliding_attention" for kind in types]
        return sliding[: self.num_layers]


def llama_like(reader: ConfigReader, layers: Sequence[LayerSpec] | None = None, **overrides: Any) -> ModelSpec:
    """A ``ModelSpec`` with Llama's layout; ``overrides`` are ``ModelSpec`` fields."""
    if layers is None:
        layers = uniform_layers(reader)
    if len(layers) != reader.num_layers:
        raise ModelLoadError(f"the config describes {len(layers)} layers, but num_hidden_layers is {reader.num_layers}")
    dense = any(layer.moe is None for layer in layers)
    values: dict[str, Any] = {
        "family": reader.family,
        "vocab_size": reader.size("vocab_size"),
        "hidden_size": reader.size("hidden_size"),
        "intermediate_size": reader.size("intermediate_size") if dense else 0,
        "num_heads": reader.num_heads,
        "num_kv_heads": int(reader.get("num_key_value_heads", reader.num_heads)),
        "head_dim": reader.head_dim,
        "layers": tuple(layers),
        "norm_eps": float(reader.get("rms_norm_eps", 1e-6)),
        "attention_scale": reader.head_dim**-0.5,
        "max_context": reader.max_context,
        "context_length": reader.context_length,
        "tied_head": bool(reader.get("tie_word_embeddings", False)),
        "activation": reader.activation(),
    }
    return ModelSpec(**{**values, **overrides})


def uniform_layers(
    reader: ConfigReader, sliding: Sequence[bool] | None = None, moe: Sequence[MoESpec | None] | None = None
) -> list[LayerSpec]:
    """Layers with one rotation; none slides and none is a mixture of experts unless told."""
    rope = reader.rope()
    windows = reader.windows(sliding or [False] * reader.num_layers)
    return [
        LayerSpec(*layer) for layer in zip(windows, [rope] * len(windows), moe or [None] * len(windows), strict=True)
    ]
