"""Logits of transformers on tiny models: the numbers that every backend has to reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from paceline.backends.base import Backend
from paceline.models.loading import load_model
from paged_runner import PagedRunner
from tiny_models import CONTEXTS, tiny_model

LENGTHS = (45, 23, 31)


@dataclass(frozen=True)
class Reference:
    """A tiny model in its folder, three sequences, and for each the logits of ``transformers`` [tokens, vocabulary]."""

    folder: Path
    context_length: int | None
    sequences: list[list[int]]
    logits: list[torch.Tensor]

    def runner(self, backend: Backend) -> PagedRunner:
        """The model on ``backend`` with an empty cache."""
        return PagedRunner(load_model(self.folder, backend, context_length=self.context_length), backend)


def make_reference(variant: str, folder: Path) -> Reference:
    """``folder`` holds the model that ``tiny_model(variant)`` gives."""
    generator = torch.Generator().manual_seed(5)
    sequences = [torch.randint(3, 140, (length,), generator=generator).tolist() for length in LENGTHS]
    logits = transformers_logits(tiny_model(variant), sequences)
    return Reference(folder, CONTEXTS.get(variant), sequences, logits)


@torch.no_grad()
def transformers_logits(model: torch.nn.Module, sequences: list[list[int]]) -> list[torch.Tensor]:
    """Without a cache, all sequences padded on the right to the longest: a causal model does not see the padding, and
    rotary embeddings that depend on the length are the same for all."""
    longest = max(map(len, sequences))
    padded = torch.tensor([ids + [3] * (longest - len(ids)) for ids in sequences])
    logits = model(input_ids=padded, use_cache=False).logits
    return [rows[: len(ids)] for rows, ids in zip(logits, sequences, strict=True)]
