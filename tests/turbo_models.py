"""Random speculators for tiny targets, and their maths in torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from paceline.models.loading import LoadedModel
from paceline.speculation.drafters.turbo_format import SpeculatorConfig
from paceline.training.architecture import default_config

Tensors = dict[str, torch.Tensor]


def tiny_config(target: LoadedModel, **wishes: Any) -> SpeculatorConfig:
    wishes = {"layers": (0, 2), "positions": 4, "vocab_size": 48, "markov_rank": 4, "window": 32, **wishes}
    return default_config(target.spec, "tiny", **wishes)


def random_tensors(config: SpeculatorConfig, seed: int = 0) -> Tensors:
    """Wide enough that every part matters."""
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for name, shape in config.shapes().items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("norm"):
            tensors[name] = 1.0 + 0.3 * noise
        elif name == "state_scale":
            tensors[name] = noise.abs() + 0.5
        elif name in ("masks", "survival"):
            tensors[name] = noise
        else:
            tensors[name] = 1.5 * noise / shape[-1] ** 0.5
    ids = torch.randperm(config.target.vocab_size, generator=generator)[: config.vocab_size]
    tensors["tokens"] = ids.sort().values
    return tensors


def tensors_for_text(config: SpeculatorConfig, text: Sequence[int], seed: int = 0) -> Tensors:
    """Of a speculator that proposes what follows each token in ``text``, the last time where it comes more than once.
    Its Markov term says it all: rank and vocabulary must be one number, and the text's tokens fit in."""
    size = config.vocab_size
    assert config.markov_rank == size >= len(set(text))
    tensors = random_tensors(config, seed)
    others = [token for token in range(config.target.vocab_size) if token not in text]
    tokens = sorted([*set(text), *others][:size])
    tensors["tokens"] = torch.tensor(tokens)
    tensors["head"] *= 0.0
    tensors["markov_next"], tensors["markov_previous"] = torch.eye(size), torch.zeros(size, size)
    for token, following in pairwise(text):
        row = tensors["markov_previous"][tokens.index(token)]
        row.zero_()[tokens.index(following)] = 6.0
    return tensors
