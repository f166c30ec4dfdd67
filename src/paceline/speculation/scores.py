"""What drafts turned out to be worth: every proposal is compared with what its sequence took, verified or not."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from operator import ne

from paceline.speculation.agreement import Agreement
from paceline.speculation.calibration import Calibration, outcomes_of
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress
from paceline.speculation.reliability import Reliability
from paceline.speculation.tracks import SHADOW_TOKENS, Candidate, Shadow, Track


class Scores:
    """All that a controller learns of drafters' words: how they come true (``calibration``), what a second one is worth
    beside the first (``agreement``), and how far predictions held (``reliability``)."""

    def __init__(self) -> None:
        self.calibration = Calibration()
        self.agreement = Agreement()
        self.reliability = Reliability()

    def add(self, part: Progress, track: Track) -> None:
        """A step gave tokens: compares what was verified with them; and what was not, as far as it is followed up."""
        adapter = part.sequence.adapter
        self._add_best(part, track)
        for candidate in track.candidates:
            if candidate.chosen and part.drafted:
                draft = candidate.draft.trim(part.drafted) if candidate.drawn else candidate.draft
                track.shadows.pop(candidate.drafter.name, None)
                outcomes = self._learn(adapter, track, candidate, draft, part.token_ids)
                if candidate is track.best and draft.parents is None:
                    self.reliability.add(candidate.drafter.name, candidate.survival[: part.drafted], outcomes)
            elif not candidate.drawn:
                track.shadows.setdefault(candidate.drafter.name, Shadow(candidate))
        for name, shadow in list(track.shadows.items()):
            taken, draft = shadow.taken, shadow.candidate.draft
            taken += part.token_ids
            refused = draft.parents is None and any(map(ne, draft.token_ids, taken))
            if refused or len(taken) >= min(len(draft), SHADOW_TOKENS):
                self._learn(adapter, track, shadow.candidate, draft, taken)
                del track.shadows[name]
        track.begin()

    def _add_best(self, part: Progress, track: Track) -> None:
        """What a tree that was merged says of the drafters in it."""
        best = track.best
        if best is None or best.merged is None:
            return
        draft = best.draft
        outcomes = outcomes_of(draft.token_ids, draft.parents, part.token_ids)
        self.agreement.learn(best.merged.lessons, outcomes)
        if best.chosen and draft.drafters is not None:
            fates = fates_of(draft.parents, outcomes, part.drafted)
            for drafter, predicted, accepted in zip(draft.drafters, best.survival, fates, strict=False):
                if accepted is not None:
                    self.reliability.count(drafter, predicted, accepted)

    def _learn(
        self, adapter: str | None, track: Track, candidate: Candidate, draft: Draft, taken: Seq[int]
    ) -> list[bool | None]:
        outcomes = outcomes_of(draft.token_ids, draft.parents, taken)
        confidence = draft.confidence or (None,) * len(draft)
        self.calibration.observe(
            candidate.drafter.name, adapter, track.record, confidence, candidate.survival, outcomes, draft.parents
        )
        return outcomes


def fates_of(parents: Seq[int] | None, outcomes: Seq[bool | None], count: int) -> list[bool | None]:
    """What became of the first ``count`` tokens together with their ancestors, from outcomes given these: behind a
    refused token all are refused."""
    fates: list[bool | None] = []
    for i in range(count):
        parent = i - 1 if parents is None else parents[i]
        outcome = outcomes[i] if i < len(outcomes) else None
        fates.append(False if parent >= 0 and fates[parent] is False else outcome)
    return fates
