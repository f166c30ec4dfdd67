"""What a drafter is, and what it sees of the engine."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from paceline.backends.base import IntArray
from paceline.sampling.grammar import GrammarMatcher
from paceline.sampling.params import SamplingParams
from paceline.speculation.draft import Draft


class SequenceView(Protocol):
    """A running sequence, as drafters see it. ``key`` names it among the unfinished ones: (request id, index)."""

    @property
    def key(self) -> tuple[str, int]: ...

    @property
    def index(self) -> int: ...

    @property
    def adapter(self) -> str | None: ...

    @property
    def params(self) -> SamplingParams: ...

    @property
    def prompt_length(self) -> int: ...

    @property
    def length(self) -> int:
        """Known tokens: prompt and output."""

    @property
    def token_ids(self) -> IntArray:
        """All known tokens, int32 ``[length]``: a view, valid until the sequence grows."""

    @property
    def grammar(self) -> GrammarMatcher | None:
        """The form that its output must have, as far as its known tokens; None: it is free."""


@dataclass(slots=True)
class Progress:
    """What one step did for one sequence.

    ``token_ids`` were taken (none while its prompt is being computed) and are already part of ``sequence.token_ids``.
    ``drafted``: draft tokens that were verified.
    ``first`` is the position of the first token whose keys the step computed and kept, ``rows`` are the rows of the
    step's flat batch that hold these tokens, in order: position ``first + i`` was computed by row ``rows[i]``.
    ``hidden`` are the hidden states ``[rows of the step, layers * width]`` of ``layers``, those that drafters asked
    for, ascending; valid until the next step; None when nobody asked.
    """

    sequence: SequenceView
    token_ids: list[int]
    drafted: int = 0
    first: int = 0
    rows: Seq[int] = ()
    hidden: torch.Tensor | None = None
    layers: tuple[int, ...] = ()


class Drafter(Protocol):
    """Proposes tokens for sequences that are about to sample, and sees what came of every step.

    ``cheap`` drafters run no model: they are asked in every step, and scored on all text whether their proposal was
    verified or not. The others are asked when the controller expects a gain from them. ``layers``: those of the
    target's layers whose hidden states it wants in ``Progress.hidden``; layer ``i`` is the residual stream behind
    decoder layer ``i``. It may want others between two steps.
    """

    name: str
    cheap: bool

    @property
    def layers(self) -> tuple[int, ...]: ...

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> Seq[Draft | None]:
        """A draft of at most ``lengths[i]`` (at least 1) tokens for each sequence, or None. All its known tokens are in
        ``token_ids``; the draft follows the last one. The engine may verify fewer tokens than proposed."""

    def observe(self, progress: Seq[Progress]) -> None:
        """After each step, for every sequence that was in it. A sequence may come back with fewer tokens computed than
        before (it was preempted): its known tokens never change."""

    def forget(self, sequence: SequenceView) -> None:
        """The sequence ended (its tokens are still there), or was aborted."""

    def reset(self) -> None:
        """Forgets what it remembers of sequences that ended. Only when no other is known."""


@runtime_checkable
class KeepsAdapters(Protocol):
    """A drafter that remembers something of an adapter beyond its sequences."""

    def forget_adapter(self, adapter: str) -> None:
        """The adapter was unloaded; no open sequence has it."""


@runtime_checkable
class Whole(Protocol):
    """A drafter that proposes in one pass, which costs the same whatever length it is asked for: it is asked for all
    that it can give. Some sequences cannot have it."""

    def longest(self, sequence: SequenceView) -> int:
        """Most tokens of a draft for it; 0: there is none."""


@runtime_checkable
class Priced(Protocol):
    """A drafter that proposes no more than rows are worth.

    ``threshold``: the probability, of a token and its ancestors together, that paid for a row in the last step. The
    controller sets it before it asks; the next step's price is another, and its survivals are better calibrated than
    the drafter's own guesses: what is a little below is still to be proposed.
    """

    threshold: float
