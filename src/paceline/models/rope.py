"""Rotary frequencies of every scaling that checkpoints use, in float32 and in the order of operations of
``transformers``, so that both give the same numbers.

Sources: RoPE (Su et al. 2021, arXiv:2104.09864); linear interpolation (Chen et al. 2023, arXiv:2306.15595);
dynamic NTK (bloc97 and emozilla, 2023); YaRN (Peng et al. 2023, arXiv:2309.00071); LongRoPE (Ding et al. 2024,
arXiv:2402.13753); llama3 (the reference code that Meta published with Llama 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from paceline.backends.base import RopeSpec
from paceline.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class RopeContext:
    """What the formulas need besides the scaling's own parameters."""

    theta: float
    dim: int  # rotated dims of a head
    max_position: int  # the config's max_position_embeddings
    original_max_position: int  # context of the pretraining, where the config tells it
    context_length: int  # the context that is served


Frequencies = tuple[torch.Tensor, float]
Formula = Callable[[Mapping[str, Any], RopeContext], Frequencies]


def rope_spec(parameters: Mapping[str, Any], head_dim: int, context_length: int, config: Mapping[str, Any]) -> RopeSpec:
    """Frequencies for one kind of layer.

    ``parameters`` is in the form that ``rope_parameters`` returns; ``config`` gives the maximum positions. Scalings
    that depend on the sequence's length in ``transformers`` (dynamic, longrope) are fixed for ``context_length``, so
    that cached keys stay valid while a sequence grows.
    """
    kind = parameters["rope_type"]
    if kind not in FORMULAS:
        raise ModelLoadError(f"rope scaling {kind!r} is not supported; supported: {', '.join(sorted(FORMULAS))}")
    max_position = int(config["max_position_embeddings"])
    original = config.get("original_max_position_embeddings") or parameters.get("original_max_position_embeddings")
    context = RopeContext(
        theta=float(parameters["rope_theta"]),
        dim=int(head_dim * (parameters.get("partial_rotary_factor") or 1.0) + 1e-6),  # 96 * (72 / 96) is 71.99...
        max_position=max_position,
        original_max_position=int(original or max_position),
        context_length=context_length,
    )
    try:
        inv_freq, attention_factor = FORMULAS[kind](parameters, context)
    except KeyError as error:
        raise ModelLoadError(f"rope scaling {kind!r} lacks its parameter {error}") from error
    return RopeSpec(tuple(inv_freq.tolist()), attention_factor)


def rope_parameters(
    config: Mapping[str, Any], default_theta: float = 10_000.0, layer_type: str | None = None
) -> dict[str, Any]:
    """One flat dict with at least ``rope_type`` and ``rope_theta``, from a config of either generation: ``rope_theta``
    beside ``rope_scaling`` (transformers 4) or ``rope_parameters``, possibly nested by layer type (transformers 5)."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if layer_type is not None and isinstance(found.get(layer_type), Mapping):
        found = found[layer_type]
    merged = dict(found)
    merged["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    for key, default in (("rope_theta", default_theta), ("partial_rotary_factor", 1.0)):
        if merged.get(key) is None:
            own = config.get(key)
            merged[key] = default if own is None else own
    return merged


def max_context(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> int:
    """The longest context a checkpoint supports: ``max_position_embeddings``, stretched by the scalings whose configs
    keep the unscaled length there (dynamic; YaRN as Qwen 2.5 and 3 document it)."""
    longest = int(config["max_position_embeddings"])
    factor = float(parameters.get("factor") or 1.0)
    if parameters["rope_type"] == "dynamic":
        return int(longest * factor)
    if parameters["rope_type"] == "yarn":
        return max(longest, int((parameters.get("original_max_position_embeddings") or longest) * factor))
    return longest


def _default(parameters: Mapping[str, Any], context: RopeContext) -> Frequencies:
    return _inverse_frequencies(context.theta, context.dim), 1.0


def _linear(parameters: Mapping[str, Any], context: RopeContext) -> Frequencies:
    return _inverse_frequencies(context.theta, context.dim) / parameters["factor"], 1.0


def _dynamic(parameters: Mapping[str, Any], context: RopeContext) -> Frequencies:
    """Base raised so that the longest served position turns the slowest pair as far as in pretraining."""
    length = max(context.context_length, context.max_position)
    stretch = parameters["factor"] * length / context.max_position - (parameters["factor"] - 1)
    theta = context.theta * stretch ** (context.dim / (context.dim - 2))
    return _inverse_frequencies(theta, context.dim), 1.0


def _llama3(parameters: Mapping[str, Any], context: RopeContext) -> Frequencies:
    """Long wavelengths are divided by ``factor``, short ones kept, those between interpolated."""
    inv_freq = _inverse_frequencies(context.theta, context.dim)
    factor, low, high = (parameters[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = context.original_max_position
    wavelength = 2 * math.pi / inv_freq
    scaled = torch.where(wavelength > original / low, inv_freq / factor, inv_freq)
    smooth = (original / wavelength - low) / (high - low)
    blended = (1 - smooth) * scaled / factor + smooth * scaled
    between = (wavelength >= original / high) & (wavelength <= original / low)
    return torch.where(between, blended, scaled), 1.0


def _yarn(parameters: Mapping[str, Any], context: RopeContext) -> Frequencies:
    """Interpolates slow pairs, keeps fast ones, ramps between; scores grow with the log of the stretch."""
    factor = parameters["factor"]
    if factor is None:
        factor = context.max_position / context.original_max_position
    steps = context.theta ** _exponents(context.dim)
    low, high = _yarn_ramp_bounds(parameters, context)
    ramp = torch.clamp((torch.arange(context.dim // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    keep = 1 - ramp
    inv_freq = 1.0 / (factor * steps) * (1 - keep) + 1.0 / steps * keep
    return inv_freq, _yarn_attention_factor(parameters, factor)


def _yarn_ramp_bounds(parameters: Mapping[str, Any], context: RopeContext) -> tuple[float, float]:
    def dim_of(rotations: float) -> float:
        """The dim whose pair makes this many rotations over the original context."""
        turns = context.original_max_position / (rotations * 2 * math.pi)
        return context.dim * math.log(turns) / (2 * math.log(context.theta))

    low, high = dim_of(parameters.get("beta_fast") or 32), dim_of(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, context.dim - 1)
    return low, high + 0.001 if low == high else high


def _yarn_attention_factor(parameters: Mapping[str, Any], factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    weight, all_dims = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return mscale(weight) / mscale(all_dims) if weight and all_dims else mscale(1.0)


def _longrope(parameters: Mapping[str, Any], context: RopeContext) -> Frequencies:
    """One divisor for each pair: the long set when the served context exceeds the pretraining's, else the short one."""
    original = context.original_max_position
    divisors = parameters["long_factor" if context.context_length > original else "short_factor"]
    if len(divisors) != context.dim // 2:
        raise ModelLoadError(f"longrope has {len(divisors)} factors, expected {context.dim // 2} (half the head)")
    inv_freq = 1.0 / (torch.tensor(divisors, dtype=torch.float32) * context.theta ** _exponents(context.dim))
    attention_factor = parameters.get("attention_factor")
    if attention_factor is None:
        factor = parameters.get("factor") or context.max_position / original
        attention_factor = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return inv_freq, float(attention_factor)


def _exponents(dim: int) -> torch.Tensor:
    return torch.arange(0, dim, 2, dtype=torch.float32) / dim


def _inverse_frequencies(theta: float, dim: int) -> torch.Tensor:
    return 1.0 / (theta ** _exponents(dim))


FORMULAS: dict[str, Formula] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
