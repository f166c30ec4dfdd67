"""Block verification of a chain: Sun et al. 2024, "Block Verification Accelerates Speculative Decoding"."""

from __future__ import annotations

import numpy as np

from paceline.speculation.distribution import excess, probabilities_of, probability_of
from paceline.speculation.draft import Distribution, Draft
from paceline.speculation.outcome import Target, Verified


def verify_block(draft: Draft, target: Target) -> Verified:
    """Accepts the longest prefix of the chain that is accepted as a whole.

    With p the target, q what the tokens were drawn from, and s_0 = 1, s_i = min(1, s_{i-1} p(x_i) / q(x_i)) the share
    of the prefix x_1..x_i that the target can take in, a prefix with tokens behind it is accepted with probability

        h_i = E_i / (E_i + 1 - s_i),    E_i = sum over x of max(s_i p(x) - q(x), 0), p and q behind x_i,

    the whole chain with h_k = s_k. Behind the accepted prefix stands a token drawn from max(s_i p - q, 0), or from p
    behind the whole chain. The text is exactly the target's, and no rule that sees the same distributions accepts more
    tokens in expectation; token by token rejection accepts fewer or as many.

    The chain may have been cut, as long as whether token i is in it depends on distributions and on tokens before i
    only: the cut is then as if q behind the last token drew an id that the target never gives.
    """
    rows, shares, cut = _shares(draft, target)
    last = len(shares) - 1
    assert draft.distributions is not None
    for count in range(last, -1, -1):
        if count == 0:  # the empty prefix stands in any case
            break
        if count == last and cut:
            probability = shares[count]
        else:
            probability = _acceptance(rows[count], draft.distributions[count], shares[count])
        if probability > 0.0 and target.noise.accepts(count - 1, probability):
            break
    path = list(range(count + 1))
    tokens = list(draft.token_ids[:count])
    if count == last and cut:
        p = target.distribution(count)
        tokens.append(-1 if p is None else int(p[0][target.noise.bonus(count, p[1])]))
    else:
        p = rows[count]
        weights = excess(p, draft.distributions[count], shares[count])
        # Without excess p and q are equal here, and tokens behind are refused with the probability of rounding.
        tokens.append(int(p[0][target.noise.residual(weights if weights.any() else p[1])]))
    return Verified(tokens, path)


def _shares(draft: Draft, target: Target) -> tuple[list[Distribution], list[float], bool]:
    """Target distributions before each token that has a share, the shares s_0.. of the prefixes that can be accepted,
    and whether the block ends behind them: not where the next token has no share and so cannot be accepted."""
    assert draft.distributions is not None
    rows: list[Distribution] = []
    shares = [1.0]
    for place, token in enumerate(draft.token_ids):
        p = target.distribution(place)
        if p is None:  # nothing can follow this prefix, so the chain ends here
            return rows, shares, True
        rows.append(p)
        q = probability_of(draft.distributions[place], token)
        assert q > 0.0, f"draft token {token} at {place} is not in what {draft.drafter} says it was drawn from"
        share = min(1.0, shares[-1] * probability_of(p, token) / q)
        if share == 0.0:
            return rows, shares, False
        shares.append(share)
    return rows, shares, True


def _acceptance(p: Distribution, q: Distribution, share: float) -> float:
    """h of a prefix that has this share, with ``p`` and ``q`` behind it. E = s - sum of min(s p, q): only q's ids have
    to be looked at."""
    common = float(np.minimum(share * probabilities_of(p, q[0]), q[1]).sum())
    return max(share - common, 0.0) / (1.0 - common) if common < 1.0 else 0.0
