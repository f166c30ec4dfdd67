"""From logits to tokens: every row on its own, in a fixed layout, so that no row's result depends on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from paceline.sampling.outputs import TokenLogprobs
from paceline.sampling.state import SamplingState


@dataclass(slots=True)
class SampleRow:
    """One row of logits: whose it is, and the draft tokens on the path from the sequence's last committed token to
    this row's token (none for the row that a plain decode computes). The token sampled here gets position
    ``state.num_tokens + len(draft)``. A row without drafts can be kept and passed again every step."""

    state: SamplingState
    draft: tuple[int, ...] = ()


@dataclass(slots=True)
class SampleOutput:
    """One step's tokens, a row each. A row in ``errors`` (row -> message for the user) has no token (-1): the model
    gave NaN or infinite logits, or masks left nothing to sample; its sequence ends with that error if the row is on
    the accepted path. ``logprobs`` is None when no row asked for them."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None] | None = None
    errors: dict[int, str] = field(default_factory=dict)


class Sampler:
    """Samples rows; owns scratch memory only, so equal arguments give equal results."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def sample(self, logits: torch.Tensor, rows: Sequence[SampleRow]) -> SampleOutput:
        """``logits`` is float32 ``[L, V]`` (not changed), ``rows`` has L entries. ``logprobs`` are filled for
        rows whose ``params.logprobs`` is not None."""
        raise NotImplementedError

    def prompt_logprobs(self, logits: torch.Tensor, next_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
        """Log-probabilities of known tokens: row ``i`` of ``logits [R, V]`` predicts ``next_ids[i]`` (the prompt token
        that follows the row's own)."""
        raise NotImplementedError
