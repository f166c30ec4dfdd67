"""What the engine asks before a step, and what it is told: which draft tokens to verify."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress, SequenceView
from paceline.speculation.reliability import ReliabilityBin


@dataclass(slots=True)
class Decision:
    """Drafts to verify, one entry a sequence (None: no draft). ``seconds``: predicted duration of the step,
    ``seconds_without``: of the same step without drafts, ``seconds_alone``: without drafts and prompts; 0 where no cost
    table is known."""

    drafts: Seq[Draft | None]
    seconds: float = 0.0
    seconds_without: float = 0.0
    seconds_alone: float = 0.0


@dataclass(frozen=True, slots=True)
class StepShape:
    """What is in a step before drafts. ``sampling``: sequences that sample, a row each, those that may not draft
    included; ``other_rows``: rows besides these, of prompts being computed; ``draft_rows``: most rows for drafts.
    ``contexts``: tokens before the row of each sequence that samples; ``prompts``: (tokens before them, rows) of each
    sequence with other rows."""

    sampling: int
    other_rows: int
    draft_rows: int
    contexts: Seq[int] = ()
    prompts: Seq[tuple[int, int]] = ()


class DraftController(Protocol):
    """Who drafts, and how much. ``layers``: of the target, whose hidden states ``observe`` gets (ascending); others
    from one step to the next where drafters come and go."""

    names: tuple[str, ...]

    @property
    def layers(self) -> tuple[int, ...]: ...

    def choose(self, sequences: Seq[SequenceView], limits: Seq[int], shape: StepShape) -> Decision:
        """For sequences that sample in this step: at most ``limits[i]`` (at least 1) draft tokens each. Not called when
        no sequence may draft."""

    def observe(self, progress: Seq[Progress], shape: StepShape, rows: int, seconds: float) -> None:
        """After every step, for every sequence that was in it: what it took; the step's shape before drafts, its rows
        with them, and its duration."""

    def forget(self, sequence: SequenceView) -> None:
        """The sequence ended or was aborted."""

    def forget_adapter(self, adapter: str) -> None:
        """The adapter was unloaded; no open sequence has it."""

    def reliability(self) -> Seq[ReliabilityBin]:
        """Predicted and realised survival of the draft tokens that were verified since the start or ``reset``."""

    def reset(self) -> None:
        """Forgets all that was learned of texts. Only when no sequence is open."""
