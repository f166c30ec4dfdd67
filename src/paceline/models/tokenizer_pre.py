"""How byte-level BPE cuts a text into words before it merges, by the names that GGUF files use.

The rules are those of the models' own ``tokenizer.json``; GGUF carries only the name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from paceline.errors import ModelLoadError

logger = logging.getLogger(__name__)

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_NUMBER, _DIGIT = r"\p{N}{1,3}", r"\p{N}"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_PUNCTUATION_OR_PATH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
# Words that may begin with capitals and go on in lower case; a capital inside begins a new word.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_MIXED_CASE = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+"
_UPPER_CASE = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*"


def _any(*patterns: str) -> str:
    return "|".join(patterns)


@dataclass(frozen=True, slots=True)
class PreTokenization:
    """One rule. ``pattern`` None: GPT-2's own."""

    pattern: str | None = None
    digits: bool = False  # every digit stands alone, before the pattern is applied
    ignore_merges: bool = False  # a word that is in the vocabulary is one token, however merges would build it
    nfc: bool = False
    add_bos: bool = False  # where the file does not say

    def apply(self, backend: tokenizers.Tokenizer) -> None:
        """Sets the normalizer and the pre-tokenizer."""
        if self.nfc:
            backend.normalizer = normalizers.NFC()
        steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        if self.pattern is not None:
            steps.append(pre_tokenizers.Split(Regex(self.pattern), "isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None))
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]


_GPT2 = PreTokenization()
_STARCODER = PreTokenization(digits=True)
_CL100K = _any(_CONTRACTION, _WORD, _NUMBER, _PUNCTUATION, _SPACES)
_LLAMA3 = PreTokenization(_CL100K, ignore_merges=True, add_bos=True)
_QWEN2 = PreTokenization(_any(_CONTRACTION, _WORD, _DIGIT, _PUNCTUATION, _SPACES), nfc=True)
_TEKKEN = PreTokenization(
    _any(_MIXED_CASE, _UPPER_CASE, _DIGIT, _PUNCTUATION_OR_PATH, _SPACES), ignore_merges=True, add_bos=True
)
_GPT4O = PreTokenization(
    _any(_MIXED_CASE + _CONTRACTION + "?", _UPPER_CASE + _CONTRACTION + "?", _NUMBER, _PUNCTUATION_OR_PATH, _SPACES)
)

_BY_NAME = {
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "olmo": _GPT2,
    "smollm": _STARCODER,
    "refact": _STARCODER,  # Granite's too
    "starcoder": _STARCODER,
    "command-r": _STARCODER,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "dbrx": PreTokenization(_CL100K),  # OLMo 2's and Phi-4's too
    "smaug-bpe": PreTokenization(_CL100K),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
    "gpt-4o": _GPT4O,
    "llama4": _GPT4O,
}


def pre_tokenization(name: str | None) -> PreTokenization:
    """The rule called ``name`` in GGUF files. Raises ``ModelLoadError`` for an unknown name."""
    if name is None or name == "default":
        logger.warning("the GGUF file does not say how text is cut into words: using GPT-2's rule")
        return _GPT2
    if name not in _BY_NAME:
        raise ModelLoadError(f"pre-tokenizer {name!r} is not supported; supported: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
