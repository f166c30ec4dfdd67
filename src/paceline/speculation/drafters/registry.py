"""The drafters there are, and which of them a model gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paceline.backends.base import Backend
from paceline.errors import InvalidRequestError
from paceline.models.spec import ModelSpec
from paceline.speculation.drafters.base import Drafter
from paceline.speculation.drafters.grammar import GrammarDrafter
from paceline.speculation.drafters.ngram import NgramDrafter
from paceline.speculation.drafters.suffix import SuffixDrafter
from paceline.speculation.options import AUTO, OFF, SpeculationOptions


@dataclass(frozen=True, slots=True)
class Target:
    """The model that is drafted for. ``tokens``: of its KV cache; ``max_running``: most sequences in one step."""

    spec: ModelSpec
    backend: Backend
    tokens: int
    max_running: int


def _model(options: SpeculationOptions, target: Target) -> Drafter:
    raise NotImplementedError


DRAFTERS: dict[str, Callable[[SpeculationOptions, Target], Drafter]] = {
    "grammar": lambda options, target: GrammarDrafter(),
    "suffix": lambda options, target: SuffixDrafter(options),
    "ngram": lambda options, target: NgramDrafter(options),
    "model": _model,
}


def chosen_names(options: SpeculationOptions) -> tuple[tuple[str, ...], str]:
    """Drafters to make, and why these. Raises ``InvalidRequestError`` for a name that is not in ``DRAFTERS``."""
    wish = options.speculate
    if wish == OFF:
        return (), "as configured"
    if wish == AUTO:
        names = ("grammar", "suffix") + (("model",) if options.draft_model else ())
        return names, "everything that this model can have"
    names = (wish,) if isinstance(wish, str) else tuple(wish)
    for name in names:
        if name not in DRAFTERS:
            raise InvalidRequestError(
                f"there is no drafter {name!r}; there are {', '.join(DRAFTERS)} (or {AUTO}, {OFF})", param="speculate"
            )
    if "model" in names and not options.draft_model:
        raise InvalidRequestError("the drafter 'model' needs a draft_model", param="draft_model")
    return tuple(dict.fromkeys(names)), "as configured"
