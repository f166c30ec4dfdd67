"""A sequence's logit rows as the rules of verification see them: looked at one by one, when a rule asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from paceline.sampling.outputs import TokenLogprobs
from paceline.sampling.sampler import NoDistributionError, Sampler, SampleRow
from paceline.speculation.draft import Distribution
from paceline.speculation.noise import StepNoise
from paceline.speculation.outcome import Verified


class TargetRows:
    """Processed distributions of one sequence's rows in one step, computed when a rule asks for them.

    ``logits`` are float32 ``[rows, V]`` on the CPU, ``rows`` say for each which draft tokens lie before it.
    ``errors`` holds, for rows that were asked for and have no distribution, the message for the user.
    """

    def __init__(self, sampler: Sampler, logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
        assert len(logits) == len(rows)
        state = rows[0].state
        self.noise = StepNoise(state.seed, state.index, state.num_tokens)
        self.errors: dict[int, str] = {}
        self._sampler = sampler
        self._logits = logits
        self._rows = rows

    def distribution(self, row: int) -> Distribution | None:
        try:
            return self._sampler.distribution(self._logits[row].numpy(), self._rows[row])
        except NoDistributionError as error:
            self.errors[row] = str(error)
            return None

    def logprobs(self, outcome: Verified) -> list[TokenLogprobs]:
        """Raw log-probabilities of the tokens of ``outcome``, for params that ask for them."""
        num_top = self._rows[0].state.params.logprobs
        assert num_top is not None
        token_ids = [token for token in outcome.token_ids if token >= 0]
        entries = self._sampler.prompt_logprobs(self._logits[outcome.path[: len(token_ids)]], token_ids, num_top)
        return [entry for entry in entries if entry is not None]


class SampledRows:
    """Tokens sampled at one sequence's rows, for drafts that are compared with them. Where sampling a row costs more
    than an argmax, rows behind the first refused token are not worth it.

    ``logits`` and ``rows`` as in ``TargetRows``. ``errors``: of rows that were asked for and have no token (-1).
    """

    def __init__(self, sampler: Sampler, logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
        assert len(logits) == len(rows)
        self.errors: dict[int, str] = {}
        self._sampler = sampler
        self._logits = logits
        self._rows = rows
        self._tokens: dict[int, int] = {}
        self._logprobs: dict[int, TokenLogprobs | None] = {}

    def __getitem__(self, row: int) -> int:
        token = self._tokens.get(row)
        if token is None:
            output = self._sampler.sample(self._logits[row : row + 1], self._rows[row : row + 1])
            token = self._tokens[row] = output.token_ids[0]
            if output.logprobs is not None:
                self._logprobs[row] = output.logprobs[0]
            if output.errors:
                self.errors[row] = output.errors[0]
        return token

    def logprobs(self, outcome: Verified) -> list[TokenLogprobs]:
        """Raw log-probabilities of the tokens of ``outcome``, for params that ask for them."""
        return [entry for row in outcome.path if (entry := self._logprobs[row]) is not None]
