"""What the user may set about speculation, in a form that crosses the process boundary (and needs no torch)."""

from __future__ import annotations

from typing import Literal

import msgspec

from paceline.errors import InvalidRequestError
from paceline.sampling.speculative import MAX_DRAFT

AUTO, OFF = "auto", "off"

#: "exact": noise of its own for each purpose, best acceptance. "coupled": drafts and target share noise (Gumbel), so
#: that sampled text for a seed is the same with speculation on and off, drawn drafts included.
SamplingMode = Literal["exact", "coupled"]


class SpeculationOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``speculate``: "auto" (every drafter that this model can have), "off", or drafters' names. ``max_draft``: most
    draft tokens of a sequence in a step (None: the controller alone decides). ``draft_model``: folder, file, Hub id or
    alias of a small model with the target's vocabulary, for the ``model`` drafter. The rest tunes single drafters."""

    speculate: str | tuple[str, ...] = AUTO
    max_draft: int | None = None
    draft_model: str | None = None
    sampling: SamplingMode = "exact"
    suffix_max_depth: int = 64  # longest match that the suffix drafter looks for, in tokens
    suffix_max_cached_tokens: int = 1_000_000  # of recent outputs, over all adapters
    suffix_max_factor: float = 4.0  # draft tokens per matched token
    suffix_min_probability: float = 0.1  # of a path in the suffix tree
    ngram_min: int = 2  # shortest match of prompt lookup
    ngram_max: int = 5  # longest match of prompt lookup

    def validate(self) -> None:
        """Raises ``InvalidRequestError`` naming the setting, its value and the limit."""
        checks = [
            ("max_draft", self.max_draft is None or 0 <= self.max_draft <= MAX_DRAFT, f"between 0 and {MAX_DRAFT}"),
            ("suffix_max_depth", 1 <= self.suffix_max_depth <= 1024, "between 1 and 1024"),
            ("suffix_max_cached_tokens", self.suffix_max_cached_tokens >= 0, "at least 0"),
            ("suffix_max_factor", self.suffix_max_factor > 0, "positive"),
            ("suffix_min_probability", 0 <= self.suffix_min_probability <= 1, "between 0 and 1"),
            ("ngram_min", self.ngram_min >= 1, "at least 1"),
            ("ngram_max", self.ngram_max >= self.ngram_min, f"at least ngram_min ({self.ngram_min})"),
        ]
        for name, good, rule in checks:
            if not good:
                raise InvalidRequestError(f"{name} must be {rule}, got {getattr(self, name)!r}", param=name)
