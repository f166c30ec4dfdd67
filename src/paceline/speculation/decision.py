"""What the engine asks before a step, and what it is told: which draft tokens to verify."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress, SequenceView


@dataclass(slots=True)
class Decision:
    """Drafts to verify, one entry a sequence (None: no draft). ``seconds``: predicted duration of the step,
    ``seconds_without``: of the same step without drafts; 0 where no cost table is known."""

    drafts: Seq[Draft | None]
    seconds: float = 0.0
    seconds_without: float = 0.0


class DraftController(Protocol):
    """Who drafts, and how much. ``layers``: of the target, whose hidden states ``observe`` gets (ascending)."""

    names: tuple[str, ...]
    layers: tuple[int, ...]

    def choose(self, sequences: Seq[SequenceView], limits: Seq[int], sampling: int, other_rows: int) -> Decision:
        """For sequences that sample in this step: at most ``limits[i]`` (at least 1) draft tokens each. ``sampling``:
        all sequences that do, those that may not draft included; ``other_rows``: the step's rows besides one for each
        of these. Not called when no sequence may draft."""

    def observe(self, progress: Seq[Progress], rows: int, other_rows: int, seconds: float) -> None:
        """After every step, for every sequence that was in it: what it took; all rows of the step, those that were
        neither sampled nor drafted among them, and its duration."""

    def forget(self, sequence: SequenceView) -> None:
        """The sequence ended or was aborted."""
