"""Log-probabilities of tokens under the model's raw distribution."""

from __future__ import annotations

import math

import numpy as np

from paceline.sampling.outputs import TokenLogprobs
from paceline.sampling.truncation import Row, largest


def token_logprobs(row: Row, token: int, num_top: int, scratch: Row) -> TokenLogprobs | None:
    """Log-softmax of the logits ``row [V]`` at ``token`` and at the ``num_top`` likeliest tokens, and the token's rank.

    None where the row defines no distribution (NaN, infinite, or everything masked). A masked token has -inf.
    ``scratch [V]`` is overwritten.
    """
    top = row.max()
    if not math.isfinite(top):
        return None
    np.subtract(row, top, out=scratch)
    np.exp(scratch, out=scratch)
    log_mass = float(top) + math.log(float(scratch.sum()))
    value = row[token]
    rank = 1 + int(np.count_nonzero(row > value)) + int(np.count_nonzero(row[:token] == value))
    if num_top == 0:
        return TokenLogprobs(token, float(value) - log_mass, rank, [], [])
    ids = largest(row, num_top)
    values = row[ids].astype(np.float64) - log_mass
    return TokenLogprobs(token, float(value) - log_mass, rank, ids.tolist(), values.tolist())
