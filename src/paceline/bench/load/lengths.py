"""How long a text is in tokens, from its characters: a line through a few texts that the server counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import StatisticsError, linear_regression

CHARACTERS_PER_TOKEN = 4.0  # of English, where no server counts
Message = dict[str, str]
Messages = Sequence[Message]


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """tokens = ``base`` (the chat template) + ``per_character`` x characters. ``counted``: texts that the server
    counted for it; 0: a rule of thumb."""

    base: float = 0.0
    per_character: float = 1 / CHARACTERS_PER_TOKEN
    counted: int = 0

    def tokens(self, messages: Messages) -> float:
        return self.base + self.per_character * characters(messages)

    def characters_for(self, tokens: float) -> int:
        """Characters of a text that makes a prompt of ``tokens`` tokens; at least one."""
        return max(1, round((tokens - self.base) / self.per_character))

    def __str__(self) -> str:
        if not self.counted:
            return f"lengths by {CHARACTERS_PER_TOKEN:g} characters a token (the server does not count)"
        return f"lengths by {self.counted} texts that the server counted"


def fit(texts: Sequence[Messages], tokens: Sequence[int]) -> TokenEstimate:
    """The line through counted texts; texts of one length give a mean without a base. The rule of thumb for none."""
    if not texts:
        return TokenEstimate()
    lengths = [characters(text) for text in texts]
    try:
        slope, base = linear_regression(lengths, tokens)
    except StatisticsError:
        slope, base = 0.0, 0.0
    if slope <= 0 or base < 0:
        slope, base = sum(tokens) / max(1, sum(lengths)), 0.0
    return TokenEstimate(base, max(slope, 1e-3), len(texts))


def characters(messages: Messages) -> int:
    return sum(len(message["content"]) for message in messages)
