"""What sampling says about a token besides its id. Imports neither numpy nor torch: the server reads this type too."""

from __future__ import annotations

import msgspec


class TokenLogprobs(msgspec.Struct, omit_defaults=True, array_like=True):
    """Natural-log probabilities at one position: of the token that stands there, its rank (1 is the likeliest), and
    the likeliest alternatives in descending order. They describe the model's raw distribution (before temperature,
    penalties and truncation), as vLLM and OpenAI report them. Equal logits rank by id, the lowest first."""

    token_id: int
    logprob: float
    rank: int
    top_ids: list[int]
    top_logprobs: list[float]
