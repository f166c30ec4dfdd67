"""From a guess of the acceptance length to tokens per step at any draft length.

Draft tokens stand one after the other, each with the same chance if the ones before it stood. A step of k draft tokens
then gives 1 + p + ... + p^k tokens (Leviathan, Kalman, Matias 2023, equation 1; the bonus token included).
"""

from __future__ import annotations

from paceline.errors import PacelineError

PRECISION = 1e-9


def expected_tokens(chance: float, draft: int) -> float:
    """Mean tokens of a step that verifies ``draft`` tokens, each standing with ``chance`` behind those before it."""
    return sum(chance**position for position in range(draft + 1))


def chance_of(acceptance_length: float, draft: int) -> float:
    """The chance with which steps of ``draft`` draft tokens give ``acceptance_length`` tokens on the mean. Raises
    ``PacelineError`` for lengths that no such step can have."""
    if not 1.0 <= acceptance_length <= draft + 1:
        raise PacelineError(
            f"an acceptance length of {acceptance_length:g} is impossible with {draft} draft tokens: it is between 1 "
            f"and {draft + 1} (the token that a step gives anyway counts); give a --draft-length that fits it"
        )
    low, high = 0.0, 1.0
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, draft) < acceptance_length else (low, middle)
    return (low + high) / 2
