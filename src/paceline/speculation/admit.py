"""How many draft tokens of each sequence a step verifies. Pure: survivals and costs in, counts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import add, truediv
from typing import NamedTuple

from paceline.speculation.costs import StepCosts
from paceline.speculation.draft import Draft

#: A token that survives more rarely is never computed, however cheap its row looks.
MIN_SURVIVAL = 0.02
#: Where all draft tokens together lengthen the step by no more than this share, they are verified without sorting.
FLAT = 1e-3
#: Where the seconds of two drafts' rows differ by no more than this share, they count as equal.
EVEN = 0.05
#: A price that falls by no more than this share settles the order: the tokens that would change places are worth next
#: to nothing.
SETTLED = 1e-3
#: Most turns in which order and price are found; two are nearly always enough.
MAX_TURNS = 4
#: Rows over which a jump of the curve is spread where a single row's cost is asked for.
AHEAD = 8


class Admission(NamedTuple):
    """``counts[i]`` is how many leading tokens of draft ``i`` are verified. ``tokens`` is what the step is expected to
    yield in ``seconds``, the sampled token of each sequence included; ``plain_seconds`` is the same step without
    drafts, ``alone_seconds`` without prompts, too. ``price`` are the seconds that one more token is worth,
    ``threshold`` is the survival from which a further row would pay at that price: what a draft is worth is the sum of
    ``max(0, survival - threshold)`` over its tokens (in units of ``price``)."""

    counts: list[int]
    tokens: float
    seconds: float
    plain_seconds: float
    alone_seconds: float
    price: float
    threshold: float


class Beside(NamedTuple):
    """Seconds of a step that the curve of its rows does not know (contexts, rows without logits): of its rows that
    sample, of all its rows before drafts, and of one more row of each draft (empty: nothing)."""

    alone: float = 0.0
    step: float = 0.0
    rows: Sequence[float] = ()


NOTHING = Beside()


def admit(
    survivals: Sequence[Sequence[float]],
    sampling: int,
    other_rows: int,
    costs: StepCosts,
    max_tokens: int,
    *,
    beside: Beside = NOTHING,
    causal: bool = False,
) -> Admission:
    """The step that makes the most of its time.

    ``survivals[i]``: for each token of draft ``i`` the probability that it is accepted, non-increasing (a tree's
    tokens sorted so, which keeps parents before children). ``sampling``: sequences that yield one token anyway, one
    row each, at least ``len(survivals)``. ``other_rows``: rows that yield nothing, of prompts being computed.
    ``max_tokens``: most draft tokens in the step.

    *Which tokens.* A step's cost depends on how many rows it has, and on whose they are only by what a row of each
    draft costs beside the curve. At a price of a token, of all sets of k tokens that are closed under parents the k of
    greatest ``survival - row's seconds / price`` are worth the most, and they are closed since survival never rises
    along a draft. So the optimum is among the prefixes of the tokens in this order, for *every* cost curve; that a
    curve is not convex only means that one must look at all of the prefixes instead of stopping at the first that does
    not pay. Where rows cost different seconds, order and price are found in turns (Dinkelbach 1967).

    *Without other rows* the best prefix is the one with the most tokens per second.

    *With other rows* tokens per second misleads: the prompt's cost is in the denominator whatever is drafted, so junk
    looks good beside it. The work is given: the prompt rows have to be computed at some time, the sequences need their
    tokens, and the sum of all steps' seconds is to be small. A token drafted now saves what it would cost otherwise,
    in a step of the same sequences without the prompt: its seconds per token, at that step's own best drafts. This is
    the price (the multiplier of the constraint "so many tokens"), and the best prefix is the one with the greatest
    ``price * tokens - seconds``. As the price is at most the seconds per token of a plain step, what is admitted never
    lowers the tokens per second of this step either. Without other rows, both rules are the same (a ratio is at its
    best where ``price * tokens - seconds`` is at most 0).

    *Non-anticipation.* Looking at all prefixes uses survivals of tokens behind the one that is decided on. These may
    depend on it if it was drawn from a distribution; verifying it or not then depends on its own value, which biases
    sampled output. For such drafts ``causal`` decides on a token with nothing but tokens before it in the order at the
    price of a plain step (its own ancestors, other sequences' tokens): it goes through them and stops for good at the
    first that does not pay, where a row costs its part of the curve or the mean over the next ``AHEAD`` rows, whichever
    is less, but no less than a row before it. On a convex curve the result is the same. Of a jump, the tokens behind it
    pay an eighth each; if they end before it is paid, the step is slower than without drafts by no more than the rest.
    One-hot drafts, and drafts coupled to the target by common noise, are verified by comparison with what is sampled
    anyway and need none of it.
    """
    assert sampling >= len(survivals), f"{len(survivals)} drafts for {sampling} sequences that sample"
    base = sampling + other_rows
    plain = costs.seconds(base) + beside.step
    lengths = [_worthwhile(draft) for draft in survivals]
    total = sum(lengths)
    alone_step = costs.seconds(sampling) + beside.alone
    alone = alone_step / sampling if sampling else 0.0
    if total == 0 or max_tokens <= 0 or sampling == 0:
        threshold = _threshold(costs, base, alone, beside.rows)
        return Admission([0] * len(survivals), sampling, plain, plain, alone_step, alone, threshold)
    rows = beside.rows or [0.0] * len(survivals)
    if total <= max_tokens and not causal:
        drafts_beside = sum(row * n for row, n in zip(rows, lengths, strict=True))
        seconds = costs.seconds(base + total) + beside.step + drafts_beside
        if seconds - plain <= FLAT * plain:
            gain = sum(sum(draft[:n]) for draft, n in zip(survivals, lengths, strict=True))
            price = (costs.seconds(sampling + total) + beside.alone + drafts_beside) / (sampling + gain)
            if gain * min(price, alone) >= seconds - plain:
                threshold = _threshold(costs, base + total, price, beside.rows)
                return Admission(lengths, sampling + gain, seconds, plain, alone_step, price, threshold)

    offers = _Offers([draft[:n] for draft, n in zip(survivals, lengths, strict=True)], rows, sampling, max_tokens)
    alone_seconds = [beside.alone + s for s in costs.span(sampling, offers.most)]
    if causal:
        step_seconds = [beside.step + s for s in costs.span(base, offers.most + AHEAD)]
        offers.sort(alone)
        count, price = _first_stop(offers, alone_seconds, step_seconds)
    else:
        price = _best_price(offers, alone_seconds, alone)
        step_seconds = [beside.step + s for s in costs.span(base, offers.most)]
        count = offers.best(step_seconds, price)
    threshold = _threshold(costs, base + count, price, beside.rows)
    seconds = costs.seconds(base + count) + beside.step + offers.beside[count]
    return Admission(offers.counts(count), offers.tokens[count], seconds, plain, alone_step, price, threshold)


def best_first(draft: Draft, survivals: Sequence[float]) -> tuple[Draft, list[float]]:
    """The same one-hot tree with its tokens by descending survival, parents still before children: the order in which
    ``admit`` may cut it. Not for drawn trees, whose siblings are verified in the order in which they were drawn."""
    assert draft.distributions is None, "a drawn tree keeps its order"
    if draft.parents is None:
        return draft, list(survivals)
    order = sorted(range(len(draft)), key=survivals.__getitem__, reverse=True)  # stable: a parent as likely stays first
    if order == list(range(len(draft))):
        return draft, list(survivals)
    place = [-1] * (len(draft) + 1)  # the last entry stands for -1
    for new, old in enumerate(order):
        place[old] = new
    sorted_draft = replace(
        draft,
        token_ids=tuple(draft.token_ids[i] for i in order),
        parents=tuple(place[draft.parents[i]] for i in order),
        confidence=draft.confidence and tuple(draft.confidence[i] for i in order),
    )
    return sorted_draft, [survivals[i] for i in order]


def _worthwhile(draft: Sequence[float]) -> int:
    """Leading tokens that survive often enough to be considered."""
    count = len(draft)
    while count and draft[count - 1] < MIN_SURVIVAL:
        count -= 1
    return count


class _Offers:
    """The draft tokens that may be verified, in the order in which they are worth it. With ``k`` of them a step is
    expected to yield ``tokens[k]``, and their rows take ``beside[k]`` seconds beside the curve."""

    def __init__(
        self, drafts: Sequence[Sequence[float]], rows: Sequence[float], sampling: int, max_tokens: int
    ) -> None:
        self._survivals = [survival for draft in drafts for survival in draft]
        self._owners = [owner for owner, draft in enumerate(drafts) for _ in draft]
        self._rows = rows
        self._sampling = sampling
        self.most = min(len(self._survivals), max_tokens)
        #: Where all rows cost the same, the order is that of survival at any price.
        self.even = max(rows) - min(rows) <= EVEN * max(rows)

    def sort(self, price: float) -> None:
        survivals, owners, rows = self._survivals, self._owners, self._rows
        if self.even or price <= 0:
            worth = survivals
        else:
            share = [row / price for row in rows]
            worth = [survival - share[owner] for survival, owner in zip(survivals, owners, strict=True)]
        # Stable: ties go to earlier drafts, and to parents.
        self._order = sorted(range(len(worth)), key=worth.__getitem__, reverse=True)[: self.most]
        self.tokens = list(accumulate((survivals[i] for i in self._order), initial=float(self._sampling)))
        self.beside = list(accumulate((rows[owners[i]] for i in self._order), initial=0.0))

    def best(self, seconds: Sequence[float], price: float) -> int:
        """How many are worth the most at ``price``, with ``seconds[k]`` of the curve for k of them; the fewest."""
        losses = [s + b - price * t for s, b, t in zip(seconds, self.beside, self.tokens, strict=True)]
        return losses.index(min(losses))

    def counts(self, count: int) -> list[int]:
        """How many of each draft are among the first ``count``."""
        counts = [0] * len(self._rows)
        for i in self._order[:count]:
            counts[self._owners[i]] += 1
        return counts


def _best_price(offers: _Offers, seconds: Sequence[float], price: float) -> float:
    """Seconds per token of the best step without other rows, with ``seconds[k]`` of the curve for k draft tokens;
    ``price``: that of a plain one. Leaves the offers in the order of this price."""
    for _ in range(MAX_TURNS):
        offers.sort(price)
        best: float = min(map(truediv, map(add, seconds, offers.beside), offers.tokens))
        if offers.even or best >= price * (1 - SETTLED):
            return min(best, price)
        price = best
    offers.sort(price)
    return price


def _first_stop(offers: _Offers, alone: Sequence[float], seconds: Sequence[float]) -> tuple[int, float]:
    """The same from each token's predecessors alone: (tokens before the first that does not pay, price there)."""
    tokens, beside = offers.tokens, offers.beside
    price, row = alone[0] / tokens[0], 0.0
    for k in range(offers.most):
        # The price is that of the tokens so far; it falls as long as they pay.
        price = min(price, (alone[k] + beside[k]) / tokens[k])
        row = max(row, min(seconds[k + 1] - seconds[k], (seconds[k + AHEAD] - seconds[k]) / AHEAD))
        if price * (tokens[k + 1] - tokens[k]) <= row + beside[k + 1] - beside[k]:
            return k, price
    return offers.most, min(price, (alone[-1] + beside[-1]) / tokens[-1])


def _threshold(costs: StepCosts, rows: int, price: float, beside: Sequence[float]) -> float:
    """Survival that pays for a row, as the mean over the next rows: a single one may be free or dear by chance; and
    over the drafts."""
    if price <= 0:
        return 1.0
    row = (costs.seconds(rows + AHEAD) - costs.seconds(rows)) / AHEAD
    if beside:
        row += sum(beside) / len(beside)
    return min(1.0, max(MIN_SURVIVAL, row / price))
