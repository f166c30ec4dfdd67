"""What the user may set about speculation, in a form that crosses the process boundary (and needs no torch)."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from paceline.errors import InvalidRequestError
from paceline.sampling.speculative import MAX_DRAFT

AUTO, OFF = "auto", "off"
NO_SPECULATOR = "none"  # instead of a speculator's folder: not even the one that the package brings

#: Every drafter that a user can name. ``model`` needs a ``draft_model``; ``turbo`` has a ``speculator``, named or of
#: the package, or those that adapters bring with them.
DRAFTER_NAMES = ("suffix", "ngram", "grammar", "model", "turbo")

#: Options of single drafters, and whether these can do without: (drafter, option, what it is, needed).
NEEDS = (
    ("model", "draft_model", "a small model with the same vocabulary", True),
    ("turbo", "speculator", "the folder of a speculator that was trained for this model", False),
)

#: "exact": noise of its own for each purpose, best acceptance. "coupled": drafts and target share noise (Gumbel), so
#: that sampled text for a seed is the same with speculation on and off, drawn drafts included.
SamplingMode = Literal["exact", "coupled"]


class SpeculationOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``speculate``: "auto" (every drafter that this model can have), "off", or drafters' names. ``max_draft``: most
    draft tokens of a sequence in a step (None: the controller alone decides). ``draft_model``: folder, file, Hub id or
    alias of a small model with the target's vocabulary, for the ``model`` drafter. ``speculator``: folder of a trained
    speculator, for the ``turbo`` drafter; None: the one that the package brings for the model, if any; "none": none.
    The rest tunes single drafters."""

    speculate: str | tuple[str, ...] = AUTO
    max_draft: int | None = None
    draft_model: str | None = None
    speculator: str | None = None
    sampling: SamplingMode = "exact"
    suffix_max_depth: int = 64  # longest match that the suffix drafter looks for, in tokens
    suffix_max_cached_tokens: int = 1_000_000  # of recent outputs, over all adapters
    suffix_max_factor: float = 4.0  # most tokens in a row that are proposed per matched token
    suffix_min_probability: float = 0.0  # of a token that is proposed, with its ancestors; beside what rows cost
    ngram_min: int = 2  # shortest match of prompt lookup
    ngram_max: int = 5  # longest match of prompt lookup

    @property
    def drafters(self) -> tuple[str, ...]:
        """The drafters that ``speculate`` allows, by name; those that the model cannot have are still among them."""
        if self.speculate == OFF:
            return ()
        if self.speculate == AUTO:
            return DRAFTER_NAMES
        return (self.speculate,) if isinstance(self.speculate, str) else tuple(self.speculate)

    def validate(self) -> None:
        """Raises ``InvalidRequestError`` naming the setting, its value and the limit."""
        self._validate_drafters()
        modes = get_args(SamplingMode)
        checks = [
            ("max_draft", self.max_draft is None or 0 <= self.max_draft <= MAX_DRAFT, f"between 0 and {MAX_DRAFT}"),
            ("draft_model", self.draft_model is None or bool(self.draft_model.strip()), "the name of a model"),
            ("speculator", self.speculator is None or bool(self.speculator.strip()), "the folder of a speculator"),
            ("sampling", self.sampling in modes, f"one of {', '.join(modes)}"),
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
        self._validate_needs()

    def _validate_drafters(self) -> None:
        known = f"{AUTO!r}, {OFF!r} or names of drafters ({', '.join(DRAFTER_NAMES)})"
        if self.speculate != OFF and not self.drafters:
            raise InvalidRequestError(f"speculate must be {known}, got none", param="speculate")
        for name in self.drafters:
            if name in (AUTO, OFF):
                raise InvalidRequestError(f"speculate: {name!r} stands alone, without others", param="speculate")
            if name not in DRAFTER_NAMES:
                raise InvalidRequestError(f"speculate must be {known}, got {name!r}", param="speculate")

    def _validate_needs(self) -> None:
        """An option of a drafter comes with the drafter, and a needed one the other way round."""
        if self.speculate in (AUTO, OFF):
            return
        for drafter, option, what, needed in NEEDS:
            given = getattr(self, option)
            if needed and drafter in self.drafters and given is None:
                raise InvalidRequestError(f"the drafter {drafter!r} needs a {option}, {what}", param=option)
            if drafter not in self.drafters and given not in (None, NO_SPECULATOR):
                raise InvalidRequestError(
                    f"{option} {given!r} is for the drafter {drafter!r}, which is not among those that speculate "
                    f"names: {', '.join(self.drafters)}",
                    param=option,
                )
