"""Draft models to test with: sequences as drafters see them, and what a model alone would write behind them."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.models.loading import load_model
from paceline.sampling.params import SamplingParams
from paceline.speculation.drafters.model import ModelDrafter
from paged_runner import PagedRunner


@dataclass
class View:
    """A sequence as drafters see it; tests let it grow."""

    request_id: str
    tokens: list[int]
    params: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.0, seed=1))
    index: int = 0
    adapter: str | None = None
    prompt_length: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return self.request_id, self.index

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def token_ids(self) -> np.ndarray:
        return np.array(self.tokens, dtype=np.int32)


def tokens_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 150, length).tolist()


def make_drafter(
    folder: Path, backend: Backend, blocks: int = 64, max_sequences: int = 8, **options: object
) -> ModelDrafter:
    """The model of ``folder`` as a drafter with a float32 cache, so that it gives the bits of ``Oracle``. It reads any
    prompt at once, unless the options say otherwise."""
    own = backend.sibling()
    model = load_model(folder, own)
    groups = model.spec.cache_spec().num_groups
    return ModelDrafter(
        model, own, [blocks] * groups, max_sequences, cache_dtype="f32", **{"catch_up_rows": 256, **options}
    )


def count_rows(drafter: ModelDrafter) -> list[int]:
    """A list that grows by the rows of each pass that the drafter runs from now on."""
    rows: list[int] = []
    program = drafter._program

    class Counting:
        max_rows = program.max_rows

        def run(self, batch: object) -> object:
            rows.append(batch.num_rows)
            return program.run(batch)

    drafter._program = Counting()
    return rows


class Oracle:
    """The model of ``folder`` without batches, drafts or reused caches."""

    def __init__(self, folder: Path, name: str) -> None:
        self.backend = get_backend(name)
        self.model = load_model(folder, self.backend)
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def logits(self, tokens: Seq[int]) -> torch.Tensor:
        """Of the token behind these."""
        key = tuple(tokens)
        if key not in self._known:
            runner = PagedRunner(self.model, self.backend)
            self._known[key] = runner.step([(0, tokens)], wanted=[len(tokens) - 1])[0]
        return self._known[key]

    def greedy(self, tokens: Seq[int], count: int) -> tuple[int, ...]:
        """The model's own greedy continuation."""
        runner = PagedRunner(self.model, self.backend)
        found, new = [], list(tokens)
        for _ in range(count):
            new = [int(runner.step([(0, new)], wanted=[len(new) - 1])[0].argmax())]
            found += new
        return tuple(found)
