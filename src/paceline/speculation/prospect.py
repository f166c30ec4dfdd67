"""What a drafter that runs a model is expected to be good for, before it is asked."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from operator import itemgetter

from paceline.speculation.admit import Admission
from paceline.speculation.costs import DraftCosts
from paceline.speculation.drafters.base import Drafter, SequenceView, Whole
from paceline.speculation.step_terms import StepTerms

MAX_LENGTH = 16  # tokens that are thought about
HOPE = 0.75  # acceptance of each token as long as nothing is known
RATE = 0.05  # of the mean that one proposal replaces
PROBE_LENGTH = 3
PROBE_CALLS = 4  # of one that makes a draft in one pass: cheap, and the first call only warms up
FIRST_CALLS = 4  # before it is thought to be known what they take
COLD_STEPS = 4  # without a call, after which one such pass says nothing of what passes take: it catches up, all cold
JUDGE_RATE = 0.02  # of the means of promises and of what came of them, that one proposal replaces
FIRST_PROMISE = 1e-3  # seconds
PROBE_EVERY = 256  # steps without a proposal after which one is made to see whether the text has changed


class Prospect:
    """One drafter: the mean survival of its tokens by position and adapter, and what its passes take."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self._whole = drafter if isinstance(drafter, Whole) else None  # asked in every step, slow to find out
        self._means: dict[str | None, list[float]] = {}
        self._calls: list[tuple[int, int, float]] = []  # the first ones: sequences, length, seconds
        self._costs: DraftCosts | None = None
        self._steps = COLD_STEPS  # since it was last asked
        self._looks = 0  # steps that a look at it still takes
        self._promise = 0.0  # seconds that asking now should save
        self._promised = self._kept = FIRST_PROMISE  # means of such promises, and of what came of them

    def wanted(
        self,
        sequences: Seq[SequenceView],
        limits: Seq[int],
        have: Seq[Seq[float]],
        terms: StepTerms,
        admission: Admission,
    ) -> list[int]:
        """Lengths that it should propose, at most ``limits``; 0 for sequences that do without. ``have``: survivals of
        what there is; ``admission``: the step with that alone."""
        whole = self._whole
        if whole is not None:
            limits = [limit and min(limit, whole.longest(one)) for one, limit in zip(sequences, limits, strict=True)]
        nothing = [0] * len(limits)
        if not any(limits):
            return nothing
        self._promise = 0.0
        if self.idle():  # time to see whether it has become better, and to trust its hopes again
            self._kept = self._promised
            self._looks = 1 if whole is None else PROBE_CALLS
        if self._looks:  # one sequence tells
            self._looks -= 1
            first = next(i for i, limit in enumerate(limits) if limit)
            length = limits[first] if whole is not None else min(limits[first], PROBE_LENGTH)
            return [length * (i == first) for i in range(len(limits))]
        hopes = [
            terms.worthwhile(self.survival(one.adapter, limit)) for one, limit in zip(sequences, limits, strict=True)
        ]
        if not any(hopes):
            return nothing
        hoped = terms.admit([together(own, other) for own, other in zip(have, hopes, strict=True)])
        lengths = [
            max(0, count - before) and (limit if whole is not None else min(limit, count))
            for count, before, limit in zip(hoped.counts, admission.counts, limits, strict=True)
        ]
        used = sum(length > 0 for length in lengths)
        self._promise = worth_more(hoped, admission)
        return lengths if self._promise * self._kept / self._promised > self.seconds(used, max(lengths)) else nothing

    def judge(self, admission: Admission, before: Admission) -> None:
        """What came of its drafts made the step ``admission``, which was ``before``. Hopes are means and take drafters
        to be right independently of each other; how much less than they promise is kept, is learned."""
        if self._promise > 0.0:
            promised, kept = self._promise, worth_more(admission, before)
            self._promised += JUDGE_RATE * (promised - self._promised)
            self._kept = max(0.0, self._kept + JUDGE_RATE * (kept - self._kept))

    def survival(self, adapter: str | None, limit: int) -> Seq[float]:
        """Of the first ``limit`` tokens it would propose."""
        return self._mean(adapter)[:limit]

    def forget_adapter(self, adapter: str) -> None:
        """It was unloaded."""
        self._means.pop(adapter, None)

    def seconds(self, sequences: int, length: int) -> float:
        """Of a proposal of ``length`` tokens for each of ``sequences``; 0 as long as nothing is known, so that it is
        tried."""
        return 0.0 if self._costs is None else self._costs.seconds(sequences, length)

    def idle(self) -> bool:
        """Counts a step; whether it is time to look again."""
        self._steps += 1
        return self._steps >= PROBE_EVERY

    def learn(self, sequences: int, length: int, seconds: float, survivals: Seq[tuple[str | None, Seq[float]]]) -> None:
        """A proposal was made: how long it took, and what is thought of the drafts that came. A call that gave none
        tells nothing of what drafts take: hidden states had not come, or a long text was caught up with."""
        cold = self._whole is not None and self._steps > COLD_STEPS
        self._steps = 0
        if not survivals:
            return
        if not cold:
            self._learn_seconds(sequences, length, seconds)
        for adapter, values in survivals:
            means = self._mean(adapter)
            for i, value in enumerate(values[:MAX_LENGTH]):
                means[i] += RATE * (value - means[i])
            for i in range(min(len(values), MAX_LENGTH), MAX_LENGTH):  # what it did not propose it did not believe in
                means[i] = min(means[i], means[i - 1]) if i else means[i]

    def _learn_seconds(self, sequences: int, length: int, seconds: float) -> None:
        if self._costs is not None:
            self._costs.observe(sequences, length, seconds)
            return
        self._calls.append((sequences, length, seconds))
        if len(self._calls) == FIRST_CALLS:
            self._costs = DraftCosts(sorted(self._calls, key=itemgetter(2)))

    def _mean(self, adapter: str | None) -> list[float]:
        means = self._means.get(adapter)
        if means is None:
            means = self._means[adapter] = [HOPE ** (i + 1) for i in range(MAX_LENGTH)]
        return means


def worth_more(admission: Admission, before: Admission) -> float:
    """Seconds that a step saves against another one of the same sequences, its tokens at that one's price."""
    return (admission.tokens - before.tokens) * before.price - (admission.seconds - before.seconds)


def together(have: Seq[float], hope: Seq[float]) -> Seq[float]:
    """Survivals of two drafts as one tree, best first, before the second is known. As in ``merge`` the second gets what
    the first leaves open: where both speak of the same token its chance grows by that, else it is another token's."""
    if not have or not hope:
        return have or hope
    left = [s * (1.0 - have[i]) if i < len(have) else s for i, s in enumerate(hope)]
    return sorted([*have, *left], reverse=True)
