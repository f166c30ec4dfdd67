"""From the texts that an output may be to the token sequences that spell them."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.errors import InvalidRequestError
from paceline.sampling.bad_words import Encoder


def choice_ids(texts: Sequence[str], tokenizer: Encoder) -> tuple[tuple[int, ...], ...]:
    """The tokens of each text, as the tokenizer spells it at the beginning of an output; equal ones once.

    Raises ``InvalidRequestError`` for a text without tokens.
    """
    found: dict[tuple[int, ...], None] = {}
    for text in texts:
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if not ids:
            raise InvalidRequestError(f"choice must not contain a text without tokens, got {text!r}", param="choice")
        found[ids] = None
    return tuple(found)
