"""Options that take several numbers: ``--load 1 --load 8``, or ``--load 1,8``."""

from __future__ import annotations

from collections.abc import Sequence

import typer

THOUSAND = 1024  # of input lengths, which are powers of two


def integers(values: Sequence[str] | None, option: str, minimum: int = 1) -> list[int]:
    """Each once, in the order given. ``4k`` is 4096. Raises ``BadParameter`` naming the option."""
    found = []
    for word in _words(values):
        digits, factor = (word[:-1], THOUSAND) if word.lower().endswith("k") else (word, 1)
        if not digits.isascii() or not digits.isdigit() or int(digits) * factor < minimum:
            raise typer.BadParameter(f"{word!r} is not a whole number of at least {minimum}", param_hint=option)
        found.append(int(digits) * factor)
    return list(dict.fromkeys(found))


def draft_lengths(values: Sequence[str] | None, option: str, largest: int) -> list[int | None]:
    """Most draft tokens of a step; ``auto`` is None, as the engine decides."""
    words = list(_words(values))
    found: list[int | None] = [None if word == "auto" else integers([word], option)[0] for word in words]
    for length in found:
        if length is not None and length > largest:
            raise typer.BadParameter(f"{length} is more than the {largest} draft tokens of a step", param_hint=option)
    return list(dict.fromkeys(found))


def temperatures(values: Sequence[str] | None, option: str) -> list[float]:
    found = []
    for word in _words(values):
        try:
            number = float(word)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 100:
            raise typer.BadParameter(f"{word!r} is not a number from 0 to 100", param_hint=option)
        found.append(number)
    return list(dict.fromkeys(found))


def _words(values: Sequence[str] | None) -> list[str]:
    return [word.strip() for value in values or () for word in value.split(",") if word.strip()]
