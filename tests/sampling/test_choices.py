"""Texts to choose from become token sequences."""

from __future__ import annotations

from paceline.sampling.choices import choice_ids


class Letters:
    """One token a letter, whatever its case; special tokens would be a 0 in front."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + [ord(letter) for letter in text.lower()]


def test_choices_are_spelled_without_special_tokens_once_and_in_their_order() -> None:
    assert choice_ids(["no", "yes", "No", "no"], Letters()) == (tuple(b"no"), tuple(b"yes"))
    assert choice_ids([], Letters()) == ()
