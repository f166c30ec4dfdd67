"""What sampling remembers of one sequence, so that no step looks at the whole context again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from paceline.sampling.params import SamplingParams
from paceline.sampling.random import Purpose, uniforms

Ids = npt.NDArray[np.int64]
Counts = npt.NDArray[np.float32]

_MASK_64 = (1 << 64) - 1
_UNIFORM_BLOCK = 64  # positions for which uniforms are drawn at once: numpy's cost per call is spread over them


class TokenCounts:
    """The distinct tokens of a sequence and how often each stands in the output (0: only in the prompt)."""

    __slots__ = ("_counts", "_slots", "_tokens")

    def __init__(self, prompt_ids: Iterable[int] = (), output_ids: Iterable[int] = ()) -> None:
        self._slots = {token: slot for slot, token in enumerate(dict.fromkeys(prompt_ids))}
        capacity = max(64, 2 * len(self._slots))
        self._tokens: Ids = np.zeros(capacity, dtype=np.int64)
        self._counts: Counts = np.zeros(capacity, dtype=np.float32)
        self._tokens[: len(self._slots)] = list(self._slots)
        for token in output_ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Counts one more output token."""
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = len(self._slots)
            if slot == len(self._tokens):
                self._tokens, self._counts = np.resize(self._tokens, 2 * slot), np.resize(self._counts, 2 * slot)
            self._tokens[slot], self._counts[slot] = token, 0.0
        self._counts[slot] += 1.0

    def read(self, draft: Sequence[int] = ()) -> tuple[Ids, Counts]:
        """Distinct tokens and their output counts, as if ``draft`` had been emitted too. Not to be written to."""
        size = len(self._slots)
        tokens, counts = self._tokens[:size], self._counts[:size]
        if not draft:
            return tokens, counts
        known = [slot for token in draft if (slot := self._slots.get(token)) is not None]
        new: dict[int, int] = {}
        for token in draft:
            if token not in self._slots:
                new[token] = new.get(token, 0) + 1
        counts = np.concatenate((counts, np.fromiter(new.values(), np.float32, len(new))))
        np.add.at(counts, known, 1.0)
        return np.concatenate((tokens, np.fromiter(new.keys(), np.int64, len(new)))), counts


class SamplingState:
    """Everything about one sequence that decides its next token besides the logits.

    The engine makes it when a sequence starts (``output_ids``: tokens it already has when it is resumed) and calls
    ``extend`` with every committed token. Drafted tokens are never added: a ``SampleRow`` names those before it.

    ``seed`` defaults to ``params.seed``, which must then be set; ``index`` tells apart the ``n`` sequences of one
    request. ``eos_ids`` are the model's end-of-sequence ids. Ids outside the vocabulary are ignored.
    """

    __slots__ = (
        "_block",
        "_block_start",
        "banned",
        "bias_ids",
        "bias_values",
        "counts",
        "index",
        "num_outputs",
        "num_tokens",
        "params",
        "phrases",
        "seed",
        "stop_ids",
        "tail",
        "tail_length",
    )

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt_ids: Sequence[int],
        vocab_size: int,
        output_ids: Sequence[int] = (),
        eos_ids: Iterable[int] = (),
        seed: int | None = None,
        index: int = 0,
    ) -> None:
        self.params = params
        seed = params.seed if seed is None else seed
        assert seed is not None, "whoever creates a request draws its seed"
        self.seed = seed & _MASK_64
        self.index = index
        self.num_tokens = len(prompt_ids)  # prompt and committed output: the position of the next token
        self.num_outputs = 0
        self._block: list[float] = []
        self._block_start = -1

        def ids(values: Iterable[int]) -> Ids:
            return np.array(sorted({i for i in values if 0 <= i < vocab_size}), dtype=np.int64)

        bias = {i: value for i, value in (params.logit_bias or {}).items() if 0 <= i < vocab_size}
        self.bias_ids: Ids = np.fromiter(bias.keys(), np.int64, len(bias))
        self.bias_values = np.fromiter(bias.values(), np.float32, len(bias))
        self.banned = ids(word[0] for word in params.bad_words_ids if len(word) == 1)
        self.phrases = tuple(word for word in params.bad_words_ids if len(word) > 1 and word[-1] < vocab_size)
        self.tail_length = max((len(word) - 1 for word in self.phrases), default=0)
        self.tail: tuple[int, ...] = ()  # the last output tokens, as many as a phrase can need
        stops = set(params.stop_token_ids) | (set() if params.ignore_eos else set(eos_ids))
        self.stop_ids = ids(stops) if params.min_tokens else ids(())
        self.counts: TokenCounts | None = None
        if params.repetition_penalty != 1.0:
            self.counts = TokenCounts(prompt_ids)
        elif params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
            self.counts = TokenCounts()
        self.extend(output_ids)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Takes in committed output tokens."""
        self.num_tokens += len(token_ids)
        self.num_outputs += len(token_ids)
        if self.counts is not None:
            for token in token_ids:
                self.counts.add(token)
        if self.tail_length:
            self.tail = (*self.tail, *token_ids)[-self.tail_length :]

    @property
    def edited(self) -> bool:
        """Whether penalties, bias or masks change this sequence's logits."""
        return (
            self.counts is not None
            or len(self.bias_ids) > 0
            or len(self.banned) > 0
            or self.tail_length > 0
            or self.num_outputs < self.params.min_tokens
        )

    def uniform(self, ahead: int = 0) -> float:
        """The sampling uniform of position ``num_tokens + ahead``."""
        position = self.num_tokens + ahead
        offset = position - self._block_start
        if self._block_start < 0 or not 0 <= offset < _UNIFORM_BLOCK:
            self._block_start = position
            positions = np.arange(position, position + _UNIFORM_BLOCK)
            self._block = uniforms(self.seed, self.index, positions, Purpose.SAMPLE).tolist()
            offset = 0
        return self._block[offset]
