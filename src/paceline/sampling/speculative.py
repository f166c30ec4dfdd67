"""What one request may say about speculation."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from paceline.errors import InvalidRequestError

MAX_DRAFT = 63  # with the last known token: the rows that a token tree's ancestor mask holds


class Speculative(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Speculation of one request; None: as the engine is configured. Never changes the text, only the time it takes.

    ``enabled`` False: no drafts. ``max_draft``: most draft tokens in a step. ``drafters``: only these may propose.
    ``report``: the answer says what was drafted and accepted, and each token's proposer.
    """

    enabled: bool = True
    max_draft: int | None = None
    drafters: tuple[str, ...] | None = None
    report: bool = False

    def validate(self) -> None:
        """Raises ``InvalidRequestError`` naming the key, its value and the limit."""
        if self.max_draft is not None and not 0 <= self.max_draft <= MAX_DRAFT:
            raise InvalidRequestError(
                f"speculative.max_draft must be between 0 and {MAX_DRAFT}, got {self.max_draft}", param="speculative"
            )

    def check_drafters(self, available: Sequence[str]) -> None:
        """Raises ``InvalidRequestError`` for a drafter that is not ``available`` in the engine."""
        for name in self.drafters or ():
            if name in available:
                continue
            has = f"it has: {', '.join(available)}" if available else "it has none: speculation is off"
            raise InvalidRequestError(
                f"speculative.drafters: this engine has no drafter {name!r}; {has}", param="speculative.drafters"
            )
