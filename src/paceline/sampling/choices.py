"""From the texts of which the output is exactly one to the token sequences that spell them."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.sampling.bad_words import Encoder


def choice_ids(texts: Sequence[str], encoder: Encoder) -> tuple[tuple[int, ...], ...]:
    """The tokens of each text, as they stand in an output; those that are spelled alike once, in their order."""
    return tuple(dict.fromkeys(tuple(encoder.encode(text, add_special_tokens=False)) for text in texts))
