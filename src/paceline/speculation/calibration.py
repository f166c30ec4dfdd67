"""From a drafter's confidence to the probability that a token survives verification, learned from what happened.

The log-odds that a token is accepted once its ancestors are is modelled as a sum:

    logit(confidence) + drafter's bin + adapter's bin + run + sequence

where a bin is (position bucket, confidence bucket). The adapter's part starts near 0 and needs evidence to move, so an
adapter borrows from the drafter, and the drafter from the confidence itself. Two parts belong to the sequence: *run* is
learned over all sequences for what the sequence's last draft did (refused at once, accepted in part, on a run), which
reacts at the very next draft; *sequence* is its own number, for texts that copy more or less than others.

Each part is a Gaussian belief, and an outcome moves all of them by a step of an extended Kalman filter (logistic
regression with one observation): in proportion to its variance, so new parts learn fast and well-known ones slowly. A
little variance comes back at each outcome, which makes old evidence fade exponentially.

Survival depends on confidences and on earlier outcomes, never on the drawn token it is about or on later ones: where
``confidence[i]`` keeps the rule of ``Draft``, ``survivals(...)[i]`` keeps it too, and trimming by it does not bias the
output.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

from paceline.sampling.speculative import MAX_DRAFT
from paceline.speculation.draft import depths_of

#: Upper ends of the confidence buckets; a full 1.0 has its own (a count ratio of 1/1 is not a certainty).
_EDGES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.98, 1.0)
#: What a bucket is believed to mean before anything was seen.
_PRIORS = (0.01, 0.035, 0.07, 0.125, 0.175, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.84, 0.91, 0.96, 0.96)
#: The bucket of drafts without confidence, and what it is believed to mean.
_NO_CONFIDENCE, _NO_CONFIDENCE_PRIOR = len(_PRIORS), 0.4
_NUM_BUCKETS = _NO_CONFIDENCE + 1
#: ``_BUCKET[int(confidence * 256)]``
_BUCKET = [next(b for b, edge in enumerate(_EDGES) if level < edge * 256) for level in range(256)] + [len(_EDGES) - 1]
_START = [p / (1 - p) for p in (*_PRIORS, _NO_CONFIDENCE_PRIOR)]

#: Position buckets: 0, 1, 2, 3, 4-5, 6-9, further ones (for trees: depth below the sequence's last token).
_POSITION = [0, 1, 2, 3, 4, 4, 5, 5, 5, 5] + [6] * (MAX_DRAFT - 10)
_NUM_POSITIONS = 7

#: What a sequence's last drafts did: nothing known, refused at once, accepted in part, and from there on runs of at
#: least so many tokens accepted without a refusal.
_UNKNOWN, _REFUSED, _PARTLY = range(3)
_RUN_LENGTHS = (4, 8, 24)
_NUM_STATES = _PARTLY + 1 + len(_RUN_LENGTHS)

#: Variances (of log-odds) of the parts before anything was seen, and what each gets back at an outcome. Tuned on
#: greedy and sampled traffic of the default model; see docs/decisions.
_DRAFTER_VARIANCE, _ADAPTER_VARIANCE, _RUN_VARIANCE, _SEQUENCE_VARIANCE = 1.0, 0.2, 1.0, 0.1
_BIN_DRIFT, _SEQUENCE_DRIFT = 1e-4, 3e-3
#: Outcomes that were certain teach nothing and let a sequence's variance grow; a surprise behind a thousand of them
#: must not throw it off the scale. Bounds of its variance and of its odds.
_SEQUENCE_MOST, _ODDS_MOST = 0.3, exp(4.0)
#: Odds of every other part stay within these.
_LEAST, _MOST = exp(-8.0), exp(8.0)
#: A path less likely than this teaches nothing: the quotient of two such numbers has no digits left.
_TINY = 1e-200


class SequenceRecord:
    """What one sequence has taught about its drafters; made with the sequence and thrown away with it."""

    __slots__ = ("_shifts",)

    def __init__(self) -> None:
        self._shifts: dict[str, _Shift] = {}

    def shift(self, drafter: str) -> _Shift:
        found = self._shifts.get(drafter)
        if found is None:
            found = self._shifts[drafter] = _Shift()
        return found


class _Shift:
    """The sequence's own part: odds factor and variance; what its last drafts did."""

    __slots__ = ("odds", "run", "state", "variance")

    def __init__(self) -> None:
        self.odds, self.variance = 1.0, _SEQUENCE_VARIANCE
        self.state, self.run = _UNKNOWN, 0  # run: tokens accepted since the last refusal


class _Part:
    """Odds factors and variances of a grid of ``rows`` x ``columns`` beliefs."""

    __slots__ = ("odds", "variance")

    def __init__(self, rows: int, columns: int, variance: float, start: Sequence[float] | None = None) -> None:
        self.odds = [list(start) if start else [1.0] * columns for _ in range(rows)]
        self.variance = [[variance] * columns for _ in range(rows)]

    def state(self) -> dict[str, Any]:
        return {
            "logits": [[round(log(o), 4) for o in row] for row in self.odds],
            "variances": [[round(v, 6) for v in row] for row in self.variance],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        logits, variances = state["logits"], state["variances"]
        shape = [len(row) for row in self.odds]
        if [len(row) for row in logits] != shape or [len(row) for row in variances] != shape:
            raise ValueError(f"saved calibration has bins of another layout; {len(shape)} rows of {shape[0]} expected")
        self.odds = [[min(_MOST, max(_LEAST, exp(x))) for x in row] for row in logits]
        self.variance = [[float(v) for v in row] for row in variances]
        if not all(0 < v < 100 for row in self.variance for v in row):
            raise ValueError("saved calibration has variances that are not between 0 and 100")


class _Drafter:
    """Parts of one drafter: bins over all adapters, and runs by position."""

    __slots__ = ("bins", "runs")

    def __init__(self) -> None:
        self.bins = _Part(_NUM_POSITIONS, _NUM_BUCKETS, _DRAFTER_VARIANCE, _START)
        self.runs = _Part(_NUM_STATES, _NUM_POSITIONS, _RUN_VARIANCE)


class Calibration:
    """Survival of draft tokens, for every drafter and adapter.

    One ``Calibration`` serves an engine; it learns from every draft whose outcome is known, verified or only compared
    with the text that came (``outcomes_of``).
    """

    def __init__(self) -> None:
        self._drafters: dict[str, _Drafter] = {}
        self._adapters: dict[tuple[str, str | None], tuple[_Drafter, _Part]] = {}

    def survivals(
        self,
        drafter: str,
        adapter: str | None,
        record: SequenceRecord,
        confidence: Sequence[float | None],
        parents: Sequence[int] | None = None,
    ) -> list[float]:
        """For each token of a draft the probability that it and all its ancestors are accepted.

        ``confidence [n]`` in [0, 1], or None for all tokens; ``parents`` as in ``Draft``: None for a chain, whose
        result is non-increasing. At most ``MAX_DRAFT`` tokens.
        """
        whole, own = self._adapters.get((drafter, adapter)) or self._parts(drafter, adapter)
        shift = record.shift(drafter)
        if parents is not None:
            return _tree_survivals(whole, own, shift, confidence, parents)
        assert len(confidence) <= MAX_DRAFT
        bins, adapted, runs = whole.bins.odds, own.odds, whole.runs.odds[shift.state]
        sequence, buckets, survival, result = shift.odds, _BUCKET, 1.0, []
        for position, c in zip(_POSITION, confidence, strict=False):
            b = _NO_CONFIDENCE if c is None else buckets[int(c * 256)]
            odds = bins[position][b] * adapted[position][b] * runs[position] * sequence
            survival *= odds / (1.0 + odds)
            result.append(survival)
        return result

    def observe(
        self,
        drafter: str,
        adapter: str | None,
        record: SequenceRecord,
        confidence: Sequence[float | None],
        predicted: Sequence[float],
        outcomes: Sequence[bool | None],
        parents: Sequence[int] | None = None,
    ) -> None:
        """Learns from one draft. ``predicted`` is what ``survivals`` said of it; ``outcomes`` of its first tokens are
        True or False where all ancestors were accepted, None where nobody knows (see ``outcomes_of``)."""
        whole, own = self._adapters.get((drafter, adapter)) or self._parts(drafter, adapter)
        shift = record.shift(drafter)
        depths = None if parents is None else depths_of(parents)
        run_odds, run_variances = whole.runs.odds[shift.state], whole.runs.variance[shift.state]
        before, num_accepted, refused = 1.0, 0, False
        for i, accepted in enumerate(outcomes):
            if accepted is None:
                continue
            if parents is None or depths is None:
                position = _POSITION[i]
            else:
                position, parent = _POSITION[depths[i]], parents[i]
                before = 1.0 if parent < 0 else predicted[parent]
            if before < _TINY:
                continue
            p = predicted[i] / before
            before = predicted[i]
            c = confidence[i]
            b = _NO_CONFIDENCE if c is None else _BUCKET[int(c * 256)]
            weight = p * (1.0 - p)
            bins, of_bins = whole.bins.odds[position], whole.bins.variance[position]
            adapted, of_adapted = own.odds[position], own.variance[position]
            v_bin, v_own, v_run, v_sequence = of_bins[b], of_adapted[b], run_variances[position], shift.variance
            total = 1.0 + weight * (v_bin + v_own + v_run + v_sequence)
            step, shrink = (accepted - p) / total, weight / total
            odds = bins[b] * exp(v_bin * step)
            bins[b] = odds if _LEAST < odds < _MOST else min(_MOST, max(_LEAST, odds))
            odds = adapted[b] * exp(v_own * step)
            adapted[b] = odds if _LEAST < odds < _MOST else min(_MOST, max(_LEAST, odds))
            odds = run_odds[position] * exp(v_run * step)
            run_odds[position] = odds if _LEAST < odds < _MOST else min(_MOST, max(_LEAST, odds))
            shift.odds *= exp(v_sequence * step)
            of_bins[b] = v_bin - v_bin * v_bin * shrink + _BIN_DRIFT
            of_adapted[b] = v_own - v_own * v_own * shrink + _BIN_DRIFT
            run_variances[position] = v_run - v_run * v_run * shrink + _BIN_DRIFT
            v_sequence += _SEQUENCE_DRIFT - v_sequence * v_sequence * shrink
            shift.variance = v_sequence if v_sequence < _SEQUENCE_MOST else _SEQUENCE_MOST
            num_accepted += accepted
            refused = refused or not accepted
        if parents is not None and refused:
            refused = _all_refused(parents, outcomes)
        shift.odds = min(_ODDS_MOST, max(1.0 / _ODDS_MOST, shift.odds))
        _note(shift, num_accepted, refused)

    def state(self) -> dict[str, Any]:
        """What was learned, over all sequences, as plain numbers, lists and strings."""
        return {
            "drafters": {
                name: {"bins": part.bins.state(), "runs": part.runs.state()} for name, part in self._drafters.items()
            },
            "adapters": [
                {"drafter": drafter, "adapter": adapter, "bins": own.state()}
                for (drafter, adapter), (_, own) in self._adapters.items()
            ],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over what ``state`` gave, also of another process. Raises ``ValueError`` if its bins are others than
        this version's, and leaves everything as it was then."""
        loaded = Calibration()
        try:
            for name, parts in state["drafters"].items():
                drafter = loaded._drafters[name] = _Drafter()
                drafter.bins.load(parts["bins"])
                drafter.runs.load(parts["runs"])
            for entry in state["adapters"]:
                loaded._parts(entry["drafter"], entry["adapter"])[1].load(entry["bins"])
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"this is not a saved calibration: {error!r}; start without it") from error
        self._drafters, self._adapters = loaded._drafters, loaded._adapters

    def forget_adapter(self, adapter: str) -> None:
        """The adapter was unloaded."""
        self._adapters = {key: parts for key, parts in self._adapters.items() if key[1] != adapter}

    def _parts(self, drafter: str, adapter: str | None) -> tuple[_Drafter, _Part]:
        whole = self._drafters.get(drafter)
        if whole is None:
            whole = self._drafters[drafter] = _Drafter()
        parts = (whole, _Part(_NUM_POSITIONS, _NUM_BUCKETS, _ADAPTER_VARIANCE))
        self._adapters[drafter, adapter] = parts
        return parts


def outcomes_of(token_ids: Sequence[int], parents: Sequence[int] | None, taken: Sequence[int]) -> list[bool | None]:
    """What verification said, or would have said, of a one-hot draft: compares it with the tokens that the sequence
    took from the draft's place on.

    True: accepted. False: refused, another token was taken there (end of sequence is a token, too). None: not
    observed, for an ancestor was refused, a twin was accepted in its place, or the text does not go that far; a text
    that ends refuses nothing. For a chain (``parents`` is None) the list ends where observations end.
    """
    outcomes: list[bool | None] = []
    if parents is None:
        for proposed, token in zip(token_ids, taken, strict=False):
            outcomes.append(proposed == token)
            if proposed != token:
                break
        return outcomes
    path = [-1]  # accepted tokens' indices behind the root, by depth
    for i, (proposed, parent, depth) in enumerate(zip(token_ids, parents, depths_of(parents), strict=True)):
        if depth >= len(taken) or depth >= len(path) or path[depth] != parent:
            outcomes.append(None)
        elif proposed != taken[depth]:
            outcomes.append(False)
        elif len(path) > depth + 1:
            outcomes.append(None)
        else:
            path.append(i)
            outcomes.append(True)
    return outcomes


def _tree_survivals(
    whole: _Drafter, own: _Part, shift: _Shift, confidence: Sequence[float | None], parents: Sequence[int]
) -> list[float]:
    bins, adapted, runs, sequence = whole.bins.odds, own.odds, whole.runs.odds[shift.state], shift.odds
    result: list[float] = []
    for c, parent, depth in zip(confidence, parents, depths_of(parents), strict=True):
        position = _POSITION[depth]
        b = _NO_CONFIDENCE if c is None else _BUCKET[int(c * 256)]
        odds = bins[position][b] * adapted[position][b] * runs[position] * sequence
        survival = odds / (1.0 + odds)
        result.append(survival if parent < 0 else survival * result[parent])
    return result


def _all_refused(parents: Sequence[int], outcomes: Sequence[bool | None]) -> bool:
    """Whether the accepted path of a tree ends where it has children that were looked at."""
    end = max((i for i, accepted in enumerate(outcomes) if accepted), default=-1)
    return any(parent == end and accepted is False for parent, accepted in zip(parents, outcomes, strict=False))


def _note(shift: _Shift, num_accepted: int, refused: bool) -> None:
    """What this draft did, for the next one's prediction. A tree refuses when none of its siblings was accepted; that
    some of them were not is the rule."""
    if refused:
        shift.run = 0
        shift.state = _PARTLY if num_accepted else _REFUSED
    elif num_accepted:
        shift.run += num_accepted
        shift.state = _PARTLY + bisect_right(_RUN_LENGTHS, shift.run)
