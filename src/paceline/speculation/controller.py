"""Who drafts for which sequence, and how much of it is verified: the decision of every step.

One rule for all machines and loads. Cheap drafters (no model pass) propose for everybody; their confidences become
calibrated survivals; a sequence's proposals become one tree (``merge``); ``admit`` takes the tokens that make the most
of the step's time, none where that is best. A drafter that runs a model is asked when what it is expected to add is
worth more than its pass.

Every proposal of a cheap drafter is scored on what the sequence took, verified or not, so switching between drafters
needs no exploration. Decisions depend on confidences and on text that stands, never on a drawn token's own fate.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from itertools import accumulate
from typing import TypeVar

from paceline.sampling.grammar import GrammarMatcher
from paceline.speculation.admit import Admission, best_first
from paceline.speculation.calibration import Calibration
from paceline.speculation.costs import StepCosts
from paceline.speculation.decision import Decision, StepShape
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Drafter, KeepsAdapters, Priced, Progress, SequenceView
from paceline.speculation.merge import Proposal, merge
from paceline.speculation.prospect import Prospect
from paceline.speculation.reliability import ReliabilityBin
from paceline.speculation.scores import Scores
from paceline.speculation.step_terms import StepTerms
from paceline.speculation.tracks import Candidate, Track

Key = tuple[str, int]
D = TypeVar("D")


class Controller:
    """Implements ``DraftController``. ``coupled``: drafts and target share their noise, so drawn drafts are verified by
    comparison. ``costs`` are set once the target was timed: nothing is drafted before."""

    costs: StepCosts | None

    def __init__(self, drafters: Seq[Drafter], costs: StepCosts | None = None, *, coupled: bool = False) -> None:
        self.names = tuple(drafter.name for drafter in drafters)
        self.costs = costs
        self._scores = Scores()
        self.coupled = coupled
        self._drafters = tuple(drafters)
        self._cheap = tuple(drafter for drafter in drafters if drafter.cheap)
        self._priced = tuple(drafter for drafter in drafters if isinstance(drafter, Priced))
        self._prospects = tuple(Prospect(drafter) for drafter in drafters if not drafter.cheap)
        self._tracks: dict[Key, Track] = {}
        self._threshold = 0.5  # survival that paid for a row in the last step

    @property
    def layers(self) -> tuple[int, ...]:
        """Of the target, that some drafter reads now; others when speculators of adapters come and go."""
        return tuple(sorted({layer for drafter in self._drafters for layer in drafter.layers}))

    def drafter(self, kind: type[D]) -> D | None:
        """The drafter of this class, if there is one."""
        return next((drafter for drafter in self._drafters if isinstance(drafter, kind)), None)

    def choose(self, sequences: Seq[SequenceView], limits: Seq[int], shape: StepShape) -> Decision:
        if self.costs is None:
            return Decision([None] * len(sequences))
        terms = StepTerms(self.costs, shape, [sequence.length for sequence in sequences], self._threshold)
        tracks = [self._track(sequence) for sequence in sequences]
        for drafter in self._cheap:
            self._ask(drafter, sequences, limits, tracks)
        best, admission = self._choose(tracks, limits, terms)
        for prospect in self._prospects:
            may = [limit * allowed(prospect.drafter.name, one) for one, limit in zip(sequences, limits, strict=True)]
            have = [() if candidate is None else candidate.survival for candidate in best]
            wanted = prospect.wanted(sequences, may, have, terms, admission)
            if any(wanted):
                self._ask_prospect(prospect, sequences, wanted, tracks)
                before = admission
                best, admission = self._choose(tracks, limits, terms)
                prospect.judge(admission, before)
        self._threshold = admission.threshold
        for priced in self._priced:
            priced.threshold = admission.threshold
        drafts = [
            candidate.choose(count) if candidate is not None and count else None
            for candidate, count in zip(best, admission.counts, strict=True)
        ]
        return Decision(drafts, admission.seconds, admission.plain_seconds, admission.alone_seconds)

    def observe(self, progress: Seq[Progress], shape: StepShape, rows: int, seconds: float) -> None:
        costs = self.costs
        if shape.other_rows == 0 and costs is not None:
            drafted = sum(costs.row_attention(part.first) * part.drafted for part in progress if part.drafted)
            costs.observe(rows, seconds, costs.attention_of_all(shape.contexts) + drafted)
        for part in progress:
            track = self._tracks.get(part.sequence.key)
            if track is not None and part.token_ids:
                self._scores.add(part, track)
        for drafter in self._drafters:
            drafter.observe(progress)

    def forget(self, sequence: SequenceView) -> None:
        self._tracks.pop(sequence.key, None)
        for drafter in self._drafters:
            drafter.forget(sequence)

    def forget_adapter(self, adapter: str) -> None:
        self.calibration.forget_adapter(adapter)
        for prospect in self._prospects:
            prospect.forget_adapter(adapter)
        for drafter in self._drafters:
            if isinstance(drafter, KeepsAdapters):
                drafter.forget_adapter(adapter)

    def reset(self) -> None:
        """Forgets all that was learned of texts, as after a start. What steps cost stays: it is the machine's. Only
        when no sequence is open."""
        assert not self._tracks, "a sequence is open"
        self._scores = Scores()
        self._prospects = tuple(Prospect(prospect.drafter) for prospect in self._prospects)
        for drafter in self._drafters:
            drafter.reset()

    def reliability(self) -> list[ReliabilityBin]:
        return self._scores.reliability.bins()

    @property
    def calibration(self) -> Calibration:
        """What is known of drafters' confidences."""
        return self._scores.calibration

    def _track(self, sequence: SequenceView) -> Track:
        track = self._tracks.get(sequence.key)
        if track is None:
            track = self._tracks[sequence.key] = Track()
        track.begin()
        return track

    def _ask(self, drafter: Drafter, sequences: Seq[SequenceView], limits: Seq[int], tracks: Seq[Track]) -> None:
        """Adds the drafter's proposals to the tracks of those that let it propose."""
        may = [i for i, sequence in enumerate(sequences) if allowed(drafter.name, sequence)]
        if len(may) < len(sequences):
            sequences, limits = [sequences[i] for i in may], [limits[i] for i in may]
            tracks = [tracks[i] for i in may]
        if not sequences:
            return
        proposals = drafter.propose(sequences, limits)
        for sequence, track, draft in zip(sequences, tracks, proposals, strict=True):
            if draft is not None and sequence.grammar is not None and draft.parents is None:
                draft = draft.trim(permitted(draft, sequence.grammar))
            if draft is None or not len(draft):
                continue
            survival = self.calibration.survivals(
                drafter.name, sequence.adapter, track.record, draft.confidence or (None,) * len(draft), draft.parents
            )
            drawn = draft.distributions is not None and not self.coupled
            if drawn:  # cut from its end only, and not by what was drawn there
                survival = list(accumulate(survival, min))
            elif draft.parents is not None:
                draft, survival = best_first(draft, survival)
            track.candidates.append(Candidate(drafter, draft, survival, drawn))

    def _ask_prospect(
        self, prospect: Prospect, sequences: Seq[SequenceView], wanted: Seq[int], tracks: Seq[Track]
    ) -> None:
        """Asks for drafts of the ``wanted`` lengths, and lets the prospect learn what that took and gave."""
        asked = [(sequences[i], length, tracks[i]) for i, length in enumerate(wanted) if length]
        started = time.perf_counter()
        self._ask(prospect.drafter, *map(list, zip(*asked, strict=True)))
        seconds = time.perf_counter() - started
        came = [
            (sequence.adapter, candidate.survival)
            for sequence, _, track in asked
            for candidate in track.candidates
            if candidate.drafter is prospect.drafter
        ]
        prospect.learn(len(asked), max(wanted), seconds, came)

    def _choose(
        self, tracks: Seq[Track], limits: Seq[int], terms: StepTerms
    ) -> tuple[list[Candidate | None], Admission]:
        """What can be made of the proposals that are there, and how much of it the step takes."""
        best = self._best(tracks, limits, terms)
        drawn = any(candidate is not None and candidate.drawn for candidate in best)
        return best, terms.admit([() if one is None else one.survival for one in best], causal=drawn)

    def _best(self, tracks: Seq[Track], limits: Seq[int], terms: StepTerms) -> list[Candidate | None]:
        """The best that can be made of each sequence's candidates: all of them as one tree, in which the one that is
        worth most at the last step's price of a row is trusted most. A drawn one stands alone: it was chosen before it
        was drawn, by what its drafter is expected to be worth, since its own survivals depend on the draw."""
        for track, limit in zip(tracks, limits, strict=True):
            candidates = track.candidates
            if len(candidates) > 1:
                ranked = sorted(candidates, key=lambda one: (one.drawn, terms.worth(one.survival)), reverse=True)
                chosen = [one for one in ranked if not one.drawn]
                track.best = ranked[0] if ranked[0].drawn or len(chosen) == 1 else self._merge(chosen, limit)
            else:
                track.best = candidates[0] if candidates else None
        return [track.best for track in tracks]

    def _merge(self, candidates: Seq[Candidate], limit: int) -> Candidate:
        proposals = [Proposal(one.draft, one.survival) for one in candidates]
        merged = merge(proposals, self._scores.agreement.weight)
        survival = merged.survival[:limit]
        return Candidate(candidates[0].drafter, merged.draft, survival, drawn=False, parts=candidates, merged=merged)


def allowed(name: str, sequence: SequenceView) -> bool:
    """Whether the request lets this drafter propose."""
    wish = sequence.params.speculative
    return wish is None or wish.drafters is None or name in wish.drafters


def permitted(draft: Draft, grammar: GrammarMatcher) -> int:
    """Leading tokens of a chain that the form of the output allows: others have no chance, whoever proposes them. Where
    tokens were drawn this cuts them by their own value, yet not by a choice: the target gives them no probability."""
    for count, token in enumerate(draft.token_ids):
        allowed = grammar.allowed(draft.token_ids[:count])
        if allowed is None:
            return count
        if not (allowed[token] if allowed.dtype == bool else token in allowed):
            return count
    return len(draft)
