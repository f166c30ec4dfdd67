"""How many draft tokens of each sequence a step verifies. Pure: survivals and costs in, counts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import truediv
from typing import NamedTuple

from paceline.speculation.costs import StepCosts
from paceline.speculation.draft import Draft

#: A token that survives more rarely is never computed, however cheap its row looks.
MIN_SURVIVAL = 0.02
#: Where all draft tokens together lengthen the step by no more than this share, they are verified without sorting.
FLAT = 1e-3
#: Rows over which a jump of the curve is spread where a single row's cost is asked for.
AHEAD = 8


class Admission(NamedTuple):
    """``counts[i]`` is how many leading tokens of draft ``i`` are verified. ``tokens`` is what the step is expected to
    yield in ``seconds``, the sampled token of each sequence included; ``plain_seconds`` is the same step without
    drafts. ``price`` are the seconds that one more token is worth, ``threshold`` is the survival from which a further
    row would pay at that price: what a draft is worth is the sum of ``max(0, survival - threshold)`` over its tokens
    (in units of ``price``)."""

    counts: list[int]
    tokens: float
    seconds: float
    plain_seconds: float
    price: float
    threshold: float


def admit(
    survivals: Sequence[Sequence[float]],
    sampling: int,
    other_rows: int,
    costs: StepCosts,
    max_tokens: int,
    *,
    causal: bool = False,
) -> Admission:
    """The step that makes the most of its time.

    ``survivals[i]``: for each token of draft ``i`` the probability that it is accepted, non-increasing (a tree's
    tokens sorted so, which keeps parents before children). ``sampling``: sequences that yield one token anyway, one
    row each, at least ``len(survivals)``. ``other_rows``: rows that yield nothing, of prompts being computed.
    ``max_tokens``: most draft tokens in the step.

    *Which tokens.* A step's cost depends on how many rows it has and not on whose they are. Of all sets of k tokens
    that are closed under parents, the k of highest survival yield the most, and they are closed since survival never
    rises along a draft. So the optimum is among the prefixes of the tokens sorted by survival, for *every* cost curve;
    that a curve is not convex only means that one must look at all of the prefixes instead of stopping at the first
    that does not pay.

    *Without other rows* the best prefix is the one with the most tokens per second.

    *With other rows* tokens per second misleads: the prompt's cost is in the denominator whatever is drafted, so junk
    looks good beside it. The work is given: the prompt rows have to be computed at some time, the sequences need their
    tokens, and the sum of all steps' seconds is to be small. A token drafted now saves what it would cost otherwise,
    in a step of the same sequences without the prompt: its seconds per token, at that step's own best drafts. This is
    the price (the multiplier of the constraint "so many tokens"), and the best prefix is the one with the greatest
    ``price * tokens - seconds``. As the price is at most the seconds per token of a plain step, what is admitted never
    lowers the tokens per second of this step either. Without other rows, both rules are the same (Dinkelbach 1967:
    a ratio is at its best where ``price * tokens - seconds`` is at most 0).

    *Non-anticipation.* Looking at all prefixes uses survivals of tokens behind the one that is decided on. These may
    depend on it if it was drawn from a distribution; verifying it or not then depends on its own value, which biases
    sampled output. For such drafts ``causal`` decides on a token with nothing but tokens of higher survival (its own
    ancestors, other sequences' tokens): it goes through them in that order and stops for good at the first that does
    not pay, where a row costs its part of the curve or the mean over the next ``AHEAD`` rows, whichever is less, but
    no less than a row before it. On a convex curve the result is the same. Of a jump, the tokens behind it pay an
    eighth each; if they end before it is paid, the step is slower than without drafts by no more than the rest.
    One-hot drafts, and drafts coupled to the target by common noise, are verified by comparison with what is sampled
    anyway and need none of it.
    """
    assert sampling >= len(survivals), f"{len(survivals)} drafts for {sampling} sequences that sample"
    base = sampling + other_rows
    plain = costs.seconds(base)
    lengths = [_worthwhile(draft) for draft in survivals]
    total = sum(lengths)
    alone = costs.seconds(sampling)
    if total == 0 or max_tokens <= 0 or sampling == 0:
        price = alone / sampling if sampling else 0.0
        return Admission([0] * len(survivals), sampling, plain, plain, price, _threshold(costs, base, price))
    if total <= max_tokens and not causal:
        seconds = costs.seconds(base + total)
        if seconds - plain <= FLAT * plain:
            gain = sum(sum(draft[:n]) for draft, n in zip(survivals, lengths, strict=True))
            price = costs.seconds(sampling + total) / (sampling + gain)
            if gain * min(price, alone / sampling) >= seconds - plain:
                threshold = _threshold(costs, base + total, price)
                return Admission(lengths, sampling + gain, seconds, plain, price, threshold)

    flat: list[float] = []
    owners: list[int] = []
    for owner, (draft, n) in enumerate(zip(survivals, lengths, strict=True)):
        flat += draft[:n]
        owners += [owner] * n
    order = sorted(range(total), key=flat.__getitem__, reverse=True)[:max_tokens]  # stable: ties to earlier drafts
    tokens = list(accumulate((flat[i] for i in order), initial=float(sampling)))
    count, price = (_first_stop if causal else _best_prefix)(tokens, sampling, other_rows, costs)
    counts = [0] * len(survivals)
    for i in order[:count]:
        counts[owners[i]] += 1
    threshold = _threshold(costs, base + count, price)
    return Admission(counts, tokens[count], costs.seconds(base + count), plain, price, threshold)


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


def _best_prefix(tokens: Sequence[float], sampling: int, other_rows: int, costs: StepCosts) -> tuple[int, float]:
    """(draft tokens, price) with ``tokens[k]`` expected from k draft tokens; the fewest among equals."""
    per_token = list(map(truediv, costs.span(sampling, len(tokens) - 1), tokens))
    price = min(per_token)
    if other_rows == 0:
        return per_token.index(price), price
    seconds = costs.span(sampling + other_rows, len(tokens) - 1)
    losses = [s - price * t for s, t in zip(seconds, tokens, strict=True)]
    return losses.index(min(losses)), price


def _first_stop(tokens: Sequence[float], sampling: int, other_rows: int, costs: StepCosts) -> tuple[int, float]:
    """The same from each token's predecessors alone: (tokens before the first that does not pay, price there)."""
    most = len(tokens) - 1
    alone = costs.span(sampling, most)
    seconds = costs.span(sampling + other_rows, most + AHEAD)
    price, row = alone[0] / tokens[0], 0.0
    for k in range(most):
        # The price is that of the tokens so far; it falls as long as they pay.
        price = min(price, alone[k] / tokens[k])
        row = max(row, min(seconds[k + 1] - seconds[k], (seconds[k + AHEAD] - seconds[k]) / AHEAD))
        if price * (tokens[k + 1] - tokens[k]) <= row:
            return k, price
    return most, min(price, alone[most] / tokens[most])


def _threshold(costs: StepCosts, rows: int, price: float) -> float:
    """Survival that pays for a row, as the mean over the next rows: a single one may be free or dear by chance."""
    if price <= 0:
        return 1.0
    row = (costs.seconds(rows + AHEAD) - costs.seconds(rows)) / AHEAD
    return min(1.0, max(MIN_SURVIVAL, row / price))
