"""What the controller keeps of its sequences: this step's candidates, and what is still to be learned from them."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from paceline.speculation.calibration import SequenceRecord
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Drafter
from paceline.speculation.merge import Merged

#: A proposal that was not verified is followed for so many tokens of the text: a single one would teach nothing of
#: later positions, more would take too long to notice that a drafter has become good.
SHADOW_TOKENS = 4


@dataclass(slots=True)
class Candidate:
    """A proposal for one sequence and what it is thought to be worth. ``drawn``: its tokens were drawn, with noise of
    their own; then only those that were verified can be scored. ``chosen``: some of it goes into the step.

    ``survival`` may end before the draft does: only so much may be verified. Where several proposals were merged,
    ``parts`` are these, and ``merged`` says how.
    """

    drafter: Drafter
    draft: Draft
    survival: Seq[float]
    drawn: bool
    chosen: bool = False
    parts: Seq[Candidate] = ()
    merged: Merged | None = None

    def choose(self, count: int) -> Draft:
        """Its first ``count`` tokens go into the step, and with them some of the parts that it was merged from."""
        self.chosen = True
        if self.merged is not None:
            for part, places in zip(self.parts, self.merged.places, strict=True):
                part.chosen = any(place < count for place in places)
        return self.draft.trim(count)


@dataclass(slots=True)
class Shadow:
    """A proposal that was not verified, and the tokens that the sequence took in its place."""

    candidate: Candidate
    taken: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Track:
    """One sequence: its own record with its drafters, this step's proposals, and the best that can be made of them."""

    record: SequenceRecord = field(default_factory=SequenceRecord)
    candidates: list[Candidate] = field(default_factory=list)
    best: Candidate | None = None
    shadows: dict[str, Shadow] = field(default_factory=dict)  # by drafter

    def begin(self) -> None:
        """A new step."""
        self.candidates, self.best = [], None
