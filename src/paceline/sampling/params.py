"""What the client may ask of the next-token distribution and of the end of the text."""

from __future__ import annotations

import math

import msgspec

from paceline.errors import InvalidRequestError
from paceline.sampling.speculative import Speculative

MAX_LOGPROBS = 100
MAX_SEQUENCES = 128


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling parameters of one request, with vLLM's names and meanings.

    Processing order: penalties, logit_bias, bad words and min_tokens masks, temperature, then the truncations
    top_k, top_p, min_p, typical_p (each on the distribution the previous one left). ``temperature=0`` is greedy:
    exact argmax of the penalised and masked logits, the lowest id on ties.
    """

    n: int = 1
    max_tokens: int | None = None  # None: up to the context limit
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 or -1: off
    min_p: float = 0.0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()  # filled from bad_words by whoever owns the tokenizer
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None  # alternatives a token; 0: only the chosen one
    prompt_logprobs: int | None = None
    choice: tuple[str, ...] = ()  # the output is exactly one of these texts
    choice_ids: tuple[tuple[int, ...], ...] = ()  # filled from choice by whoever owns the tokenizer
    speculative: Speculative | None = None  # None: as the engine is configured

    def validate(self, vocab_size: int | None = None) -> None:
        """Raises ``InvalidRequestError`` naming the parameter, its value and the limit."""
        checks: list[tuple[str, bool, str]] = [
            ("n", 1 <= self.n <= MAX_SEQUENCES, f"must be between 1 and {MAX_SEQUENCES}"),
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "must be at least 1"),
            ("min_tokens", self.min_tokens >= 0, "must not be negative"),
            ("temperature", 0.0 <= self.temperature <= 100.0, "must be between 0 and 100"),
            ("top_p", 0.0 < self.top_p <= 1.0, "must be in (0, 1]"),
            ("top_k", self.top_k >= -1, "must be -1, 0 (both: off) or positive"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "must be between 0 and 1"),
            ("typical_p", 0.0 < self.typical_p <= 1.0, "must be in (0, 1]"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "must be between -2 and 2"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "must be between -2 and 2"),
            ("repetition_penalty", 0.0 < self.repetition_penalty <= 100.0, "must be in (0, 100]"),
            ("logprobs", _within_logprobs(self.logprobs), f"must be between 0 and {MAX_LOGPROBS}"),
            ("prompt_logprobs", _within_logprobs(self.prompt_logprobs), f"must be between 0 and {MAX_LOGPROBS}"),
            ("seed", self.seed is None or -(2**63) <= self.seed < 2**64, "must fit in 64 bits"),
            ("stop", all(self.stop), "must not contain an empty string"),
            ("bad_words", all(self.bad_words), "must not contain an empty string"),
            ("choice", all(self.choice), "must not contain an empty string"),
        ]
        for name, good, rule in checks:  # a NaN fails every comparison
            if not good:
                raise InvalidRequestError(f"{name} {rule}, got {getattr(self, name)!r}", param=name)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens must not exceed max_tokens, got {self.min_tokens} > {self.max_tokens}", param="min_tokens"
            )
        if self.speculative is not None:
            self.speculative.validate()
        self._validate_ids(vocab_size)

    def _validate_ids(self, vocab_size: int | None) -> None:
        for token, bias in (self.logit_bias or {}).items():
            if not math.isfinite(bias) or abs(bias) > 100.0:
                raise InvalidRequestError(f"logit_bias must be between -100 and 100, got {bias!r}", param="logit_bias")
            self._validate_id(token, vocab_size, "logit_bias")
        for token in self.stop_token_ids:
            self._validate_id(token, vocab_size, "stop_token_ids")
        for token in {token for ids in self.choice_ids for token in ids}:
            self._validate_id(token, vocab_size, "choice")

    @staticmethod
    def _validate_id(token: int, vocab_size: int | None, param: str) -> None:
        if token < 0 or (vocab_size is not None and token >= vocab_size):
            limit = "" if vocab_size is None else f" of {vocab_size}"
            raise InvalidRequestError(f"{param}: token id {token} is not in the vocabulary{limit}", param=param)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def wants_report(self) -> bool:
        """Whether the answer says what speculation did."""
        return self.speculative is not None and self.speculative.report


def _within_logprobs(count: int | None) -> bool:
    return count is None or 0 <= count <= MAX_LOGPROBS
