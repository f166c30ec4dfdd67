"""Sequences as drafters see them, without an engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from paceline.sampling.grammar import GrammarMatcher
from paceline.sampling.params import SamplingParams


@dataclass
class TokenSequence:
    prompt: list[int]
    output: list[int] = field(default_factory=list)
    request: str = "r"
    index: int = 0
    adapter: str | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    grammar: GrammarMatcher | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.request, self.index

    @property
    def prompt_length(self) -> int:
        return len(self.prompt)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.output)

    @property
    def token_ids(self) -> np.ndarray:
        return np.array([*self.prompt, *self.output], dtype=np.int32)
