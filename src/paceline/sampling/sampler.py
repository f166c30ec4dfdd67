"""From logits to tokens: every row on its own, in a fixed layout, so that no row's result depends on the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from paceline.sampling.gumbel import Floats, token_uniforms
from paceline.sampling.logprobs import token_logprobs
from paceline.sampling.outputs import TokenLogprobs
from paceline.sampling.processors import Row, edit
from paceline.sampling.random import uniforms
from paceline.sampling.state import Ids, SamplingState
from paceline.sampling.truncation import Truncator

NOT_FINITE = "the model's logits for the next token are not numbers (NaN or infinite)"
NOTHING_LEFT = "no token is left to sample: masks (bad_words, min_tokens) exclude the whole vocabulary"


class NoDistributionError(ValueError):
    """A row has nothing to sample from; the message is for the user."""


@dataclass(slots=True)
class SampleRow:
    """One row of logits: whose it is, and the draft tokens on the path from the sequence's last committed token to
    this row's token, that one included (none for the row of the last committed token). The token sampled here gets
    position ``state.num_tokens + len(draft)``. A row without drafts can be kept and passed again every step.

    ``deferred`` rows are not sampled with the others: verification of a draft looks at them one by one.
    """

    state: SamplingState
    draft: tuple[int, ...] = ()
    deferred: bool = False

    @property
    def plain(self) -> bool:
        """Its token is the largest logit's, and nobody wants to know more."""
        state = self.state
        return not (state.edited or state.params.temperature > 0.0 or state.params.logprobs is not None)


@dataclass(slots=True)
class SampleOutput:
    """One step's tokens, a row each; -1 for deferred rows. A row in ``errors`` (row -> message for the user) has no
    token (-1) either: the model gave NaN or infinite logits, or masks left nothing to sample; its sequence ends with
    that error if the row is on the accepted path. ``logprobs`` is None when no row asked for them."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None] | None = None
    errors: dict[int, str] = field(default_factory=dict)


class Sampler:
    """Samples rows of ``vocab_size`` logits; owns scratch memory only, so equal arguments give equal results.

    ``coupled``: tokens are drawn with noise that drafters can share (``sampling/gumbel.py``) instead of one number a
    position; the distribution is the same. Not to be shared between threads. Logits on another device than the CPU are
    copied to it unless all rows are greedy without processors.
    """

    def __init__(self, vocab_size: int, coupled: bool = False) -> None:
        self.vocab_size = vocab_size
        self.coupled = coupled
        self._truncator = Truncator(vocab_size)
        self._edited: Row = np.empty(vocab_size, dtype=np.float32)
        self._scratch: Row = np.empty(vocab_size, dtype=np.float32)

    def sample(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], best: npt.NDArray[np.int32] | None = None
    ) -> SampleOutput:
        """Samples a token for each row.

        ``logits`` is float32 ``[L, V]`` (not changed), ``rows`` has L entries. ``logprobs`` are filled for rows whose
        ``params.logprobs`` is not None. A greedy row takes the largest processed logit, the lowest id on ties; the
        others draw with the noise of (seed, sequence index, position). ``best``: see ``StepOutput``.
        """
        assert logits.dtype == torch.float32 and logits.shape == (len(rows), self.vocab_size)
        for row in rows:
            if row.deferred or not row.plain:
                return self._sample_rows(_host(logits), rows, best)
        if best is not None:
            token_ids = best.tolist()
            if min(token_ids) >= 0:
                return SampleOutput(token_ids)
        return _argmax_all(logits)

    def prompt_logprobs(
        self, logits: torch.Tensor, next_ids: Sequence[int], num_top: int
    ) -> list[TokenLogprobs | None]:
        """Log-probabilities of known tokens: row ``i`` of ``logits [R, V]`` predicts ``next_ids[i]`` (the prompt token
        that follows the row's own). None for rows that are not finite."""
        assert logits.shape == (len(next_ids), self.vocab_size)
        array = _host(logits)
        with np.errstate(over="ignore"):
            return [token_logprobs(array[i], t, num_top, self._scratch) for i, t in enumerate(next_ids)]

    def distribution(self, raw: Row, row: SampleRow) -> tuple[Ids, npt.NDArray[np.float64]]:
        """The fully processed distribution that ``sample`` draws from: ascending ids and their probabilities (sum 1).

        ``raw`` is one row of logits ``[V]``. Raises ``NoDistributionError`` if it leaves nothing to sample.
        """
        params = row.state.params
        with np.errstate(over="ignore", invalid="ignore"):
            processed = self._process(raw, row)
            top = processed.max()
            if not math.isfinite(top):
                raise NoDistributionError(_reason(top))
            if params.temperature == 0.0:
                return np.array([processed.argmax()]), np.ones(1)
            return self._truncator.distribution(processed, top, params)

    def _sample_rows(
        self, logits: npt.NDArray[np.float32], rows: Sequence[SampleRow], best: npt.NDArray[np.int32] | None
    ) -> SampleOutput:
        noise = self._noise(rows)
        output = SampleOutput([-1] * len(rows))
        wanted = any(row.state.params.logprobs is not None for row in rows)
        output.logprobs = [None] * len(rows) if wanted else None
        with np.errstate(over="ignore", invalid="ignore"):  # gaps beyond float32 mean probability 0; NaN is reported
            for i, row in enumerate(rows):
                if row.deferred:
                    continue
                if best is not None and best[i] >= 0 and row.plain:
                    output.token_ids[i] = int(best[i])
                else:
                    self._sample_row(logits[i], row, i, noise.get(i), output)
        return output

    def _noise(self, rows: Sequence[SampleRow]) -> dict[int, float]:
        """The uniform number of each row that draws with one."""
        if self.coupled:
            return {}
        drawn = [i for i, row in enumerate(rows) if row.state.params.temperature > 0.0 and not row.deferred]
        numbers = uniforms(
            [rows[i].state.seed for i in drawn],
            [rows[i].state.index for i in drawn],
            [rows[i].state.num_tokens + len(rows[i].draft) for i in drawn],
        )
        return dict(zip(drawn, numbers, strict=True))

    def _sample_row(self, raw: Row, row: SampleRow, i: int, uniform: float | None, output: SampleOutput) -> None:
        params = row.state.params
        processed = self._process(raw, row)
        greedy = params.temperature == 0.0
        if greedy:
            token = int(processed.argmax())
            top = processed[token]
        else:
            token, top = -1, processed.max()
        if not math.isfinite(top):
            output.errors[i] = _reason(top)
            return
        if uniform is not None:
            token = self._truncator.draw(processed, top, params, uniform)
        elif not greedy:
            token = self._truncator.draw_coupled(processed, top, params, self._token_uniforms(row))
        output.token_ids[i] = token
        if output.logprobs is not None and params.logprobs is not None:
            output.logprobs[i] = token_logprobs(raw, token, params.logprobs, self._scratch)

    def _token_uniforms(self, row: SampleRow) -> Floats:
        state = row.state
        return token_uniforms(state.seed, state.index, state.num_tokens + len(row.draft), self.vocab_size)

    def _process(self, raw: Row, row: SampleRow) -> Row:
        """The row with penalties, bias and masks: ``raw`` itself, or scratch memory valid until the next call."""
        if not row.state.edited:
            return raw
        np.copyto(self._edited, raw)
        edit(self._edited, row.state, row.draft)
        return self._edited


def _reason(top: float) -> str:
    """Why a row whose largest processed logit is ``top`` has no token."""
    return NOTHING_LEFT if top == -math.inf else NOT_FINITE


def _host(logits: torch.Tensor) -> npt.NDArray[np.float32]:
    """The logits as a numpy array, without a copy where they are on the CPU already."""
    array: npt.NDArray[np.float32] = logits.detach().cpu().numpy()
    return array


def _argmax_all(logits: torch.Tensor) -> SampleOutput:
    """Greedy tokens of all rows."""
    if logits.device.type == "cpu":
        # numpy's argmax gives the first maximum, and the place of a NaN where there is one: its value tells. Looked at
        # one by one: caches are cold after a step, and four array operations cost more than a few numbers.
        array = _host(logits)
        token_ids = array.argmax(axis=1).tolist()
        tops = [float(array[i, token]) for i, token in enumerate(token_ids)]
    else:
        on_device, token_ids = _argmax_on_device(logits)
        tops = on_device.tolist()
    output = SampleOutput(token_ids)
    for i, top in enumerate(tops):
        if not math.isfinite(top):
            token_ids[i] = -1
            output.errors[i] = _reason(top)
    return output


def _argmax_on_device(logits: torch.Tensor) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Maxima (NaN where a row has one) and their lowest ids, which torch's argmax does not promise."""
    tops = logits.amax(dim=1)
    order = torch.arange(logits.shape[1], device=logits.device)
    lowest = torch.where(logits == tops[:, None], order, logits.shape[1]).amin(dim=1)
    return tops.cpu().numpy(), lowest.tolist()
