"""What sampling remembers of one sequence, so that no step looks at the whole context again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from paceline.sampling.grammar import ChoiceMatcher, GrammarMatcher
from paceline.sampling.params import SamplingParams

Ids = npt.NDArray[np.int64]
Counts = npt.NDArray[np.float32]


class TokenCounts:
    """The distinct tokens of a sequence and how often each stands in its output (0: only in the prompt)."""

    __slots__ = ("_counts", "_slots", "_tokens")

    def __init__(self, prompt_ids: Iterable[int] = ()) -> None:
        self._slots = {token: slot for slot, token in enumerate(dict.fromkeys(prompt_ids))}
        capacity = max(64, 2 * len(self._slots))
        self._tokens: Ids = np.zeros(capacity, dtype=np.int64)
        self._counts: Counts = np.zeros(capacity, dtype=np.float32)
        self._tokens[: len(self._slots)] = list(self._slots)

    def add(self, token: int) -> None:
        """Counts one more output token."""
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = len(self._slots)
            if slot == len(self._tokens):
                self._tokens = np.concatenate((self._tokens, np.zeros_like(self._tokens)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._tokens[slot] = token
        self._counts[slot] += 1.0

    def read(self, draft: Sequence[int] = ()) -> tuple[Ids, Counts]:
        """Distinct tokens and their output counts, as if ``draft`` had been emitted too. Not to be written to."""
        size = len(self._slots)
        tokens, counts = self._tokens[:size], self._counts[:size]
        if not draft:
            return tokens, counts
        new: dict[int, int] = {}
        known: list[int] = []
        for token in draft:
            slot = self._slots.get(token)
            if slot is None:
                new[token] = new.get(token, 0) + 1
            else:
                known.append(slot)
        counts = np.concatenate((counts, np.fromiter(new.values(), np.float32, len(new))))
        np.add.at(counts, known, 1.0)
        return np.concatenate((tokens, np.fromiter(new.keys(), np.int64, len(new)))), counts


class SamplingState:
    """Everything about one sequence that decides its next token, besides the logits.

    The engine makes it when a sequence starts (``output_ids``: tokens it already has when it is resumed) and calls
    ``extend`` with every committed token. Drafted tokens are never added: a ``SampleRow`` names those before it.

    ``seed`` defaults to ``params.seed``, which must then be set; ``index`` tells apart the ``n`` sequences of one
    request. ``eos_ids`` are the model's end-of-sequence ids. Parameters that name ids outside the vocabulary have no
    effect there (``SamplingParams.validate`` refuses them earlier).
    """

    __slots__ = (
        "banned",
        "bias_ids",
        "bias_values",
        "counts",
        "edited",
        "grammar",
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

    params: SamplingParams
    seed: int
    index: int
    num_tokens: int  # prompt and committed output: the position of the next token
    num_outputs: int
    edited: bool  # penalties, bias or masks change this sequence's logits now
    counts: TokenCounts | None
    bias_ids: Ids
    bias_values: npt.NDArray[np.float32]
    banned: Ids  # bad words of one token
    phrases: tuple[tuple[int, ...], ...]  # bad words of several tokens
    tail: tuple[int, ...]  # the last output tokens, as many as a phrase can need
    tail_length: int
    grammar: GrammarMatcher | None  # the form that the output must have
    stop_ids: Ids  # masked while there are fewer than min_tokens outputs

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt_ids: Sequence[int],
        vocab_size: int,
        output_ids: Sequence[int] = (),
        eos_ids: Collection[int] = (),
        seed: int | None = None,
        index: int = 0,
    ) -> None:
        self.params = params
        seed = params.seed if seed is None else seed
        assert seed is not None, "whoever creates a request draws its seed"
        self.seed, self.index = seed, index
        self.num_tokens, self.num_outputs = len(prompt_ids), 0

        def ids(values: Iterable[int]) -> Ids:
            return np.array(sorted({i for i in values if 0 <= i < vocab_size}), dtype=np.int64)

        bias = {i: value for i, value in (params.logit_bias or {}).items() if 0 <= i < vocab_size}
        self.bias_ids = np.fromiter(bias.keys(), np.int64, len(bias))
        self.bias_values = np.fromiter(bias.values(), np.float32, len(bias))
        self.banned = ids(word[0] for word in params.bad_words_ids if len(word) == 1)
        self.phrases = tuple(word for word in params.bad_words_ids if len(word) > 1 and 0 <= word[-1] < vocab_size)
        self.tail_length = max((len(word) - 1 for word in self.phrases), default=0)
        self.tail = ()
        self.stop_ids = ids({*params.stop_token_ids, *(() if params.ignore_eos else eos_ids)})
        # Ending is part of the form: end-of-sequence ids choose it even where ``ignore_eos`` is set.
        eos = [i for i in eos_ids if 0 <= i < vocab_size]
        self.grammar = ChoiceMatcher(params.choice_ids, eos) if params.choice_ids else None
        self.counts = None
        if params.repetition_penalty != 1.0:
            self.counts = TokenCounts(i for i in prompt_ids if 0 <= i < vocab_size)
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
        if self.grammar is not None:
            for token in token_ids:
                self.grammar.advance(token)
        if self.tail_length:
            self.tail = (*self.tail, *token_ids)[-self.tail_length :]
        self.edited = (
            self.counts is not None
            or self.num_outputs < self.params.min_tokens
            or len(self.bias_ids) > 0
            or len(self.banned) > 0
            or self.tail_length > 0
            or self.grammar is not None
        )

    def ends(self, draft: Sequence[int] = ()) -> bool:
        """Whether the form of the output leaves nothing that could follow, as if ``draft`` had been emitted: the text
        ends there, whatever ``ignore_eos`` and ``min_tokens`` say."""
        return self.grammar is not None and self.grammar.ends(draft)
