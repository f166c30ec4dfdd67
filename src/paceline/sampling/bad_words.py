"""From words that must not appear to the token sequences that spell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Encoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...


def bad_words_ids(words: Sequence[str], tokenizer: Encoder) -> tuple[tuple[int, ...], ...]:
    """Token sequences that spell each word, at the beginning of a text and inside one (after a space)."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word, " " + word.lstrip()):
            ids = tuple(tokenizer.encode(text, add_special_tokens=False))
            if ids:
                found[ids] = None
    return tuple(found)
