"""The drafters there are, and which of them a model gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from paceline.backends.base import Backend
from paceline.errors import InvalidRequestError
from paceline.speculation.draft_sampling import draw_coupled, draw_independently
from paceline.speculation.drafters.base import Drafter
from paceline.speculation.drafters.grammar import GrammarDrafter
from paceline.speculation.drafters.model_loading import Target, open_model_drafter
from paceline.speculation.drafters.ngram import NgramDrafter
from paceline.speculation.drafters.suffix import SuffixDrafter
from paceline.speculation.drafters.turbo import TurboDrafter
from paceline.speculation.drafters.turbo_loading import OpenedSpeculator, open_turbo_drafter
from paceline.speculation.drafters.turbo_shipped import FOLDER, shipped_speculator
from paceline.speculation.drafters.turbo_speculators import TurboSpeculators
from paceline.speculation.options import AUTO, NO_SPECULATOR, SpeculationOptions

#: A drafter, and what to say about it at start.
Made = tuple[Drafter, str]
Make = Callable[[SpeculationOptions, Target, Backend], Made]


def _model(options: SpeculationOptions, target: Target, backend: Backend) -> Made:
    if options.draft_model is None:
        raise InvalidRequestError("the drafter 'model' needs a draft_model", param="draft_model")
    draw = draw_coupled if options.sampling == "coupled" else draw_independently
    drafter, opened = open_model_drafter(options.draft_model, backend, target, draw=draw)
    return drafter, (
        f"{opened.name} ({opened.weights_bytes / 2**20:.0f} MiB, {opened.reason}), "
        f"KV cache of {opened.cache_tokens} tokens, {opened.cache_bytes / 2**20:.0f} MiB"
    )


def _turbo(options: SpeculationOptions, target: Target, backend: Backend) -> Made:
    model = target.model
    assert model is not None, "who opens drafters knows the model"

    def open_one(folder: str | Path) -> tuple[TurboDrafter, OpenedSpeculator]:
        return open_turbo_drafter(
            folder,
            model,
            backend,
            target_name="the model" if target.path is None else target.path.name,
            max_sequences=target.max_sequences,
            max_tokens=target.context_length,
        )

    if options.speculator is None:
        if not _adapted(target, backend):
            raise InvalidRequestError(
                "the drafter 'turbo' needs a speculator, and the package brings none for this model: name the folder "
                "of one that was trained for it",
                param="speculator",
            )
        return TurboSpeculators(lambda folder: open_one(folder)[0]), "speculators that adapters bring with them"
    base, opened = open_one(options.speculator)
    config = opened.config
    # One that was named is told by its name alone.
    whose = "the package's " if Path(options.speculator).parent == FOLDER else ""
    return TurboSpeculators(lambda folder: open_one(folder)[0], base, Path(options.speculator)), (
        f"{whose}speculator {opened.name} ({opened.weights_bytes / 2**20:.1f} MiB): {config.positions} tokens a pass "
        f"of {config.vocab_size} that it knows; states and keys of the last {config.window} tokens, "
        f"{opened.cache_bytes / 2**20:.0f} MiB"
    )


#: In the order in which they are asked; of equally good drafts the first one's is taken.
DRAFTERS: dict[str, Make] = {
    "grammar": lambda options, target, backend: (GrammarDrafter(), "tokens that a choice list forces"),
    "suffix": lambda options, target, backend: (
        SuffixDrafter(options),
        f"repeats of the request and of recent answers, up to {options.suffix_max_cached_tokens} tokens of these",
    ),
    "ngram": lambda options, target, backend: (NgramDrafter(options), "prompt lookup"),
    "model": _model,
    "turbo": _turbo,
}


def _adapted(target: Target, backend: Backend) -> bool:
    """Whether the model can have adapters, which may bring speculators."""
    return target.model is not None and bool(target.model.adapter_shapes) and backend.max_adapters > 0


def _with_speculator(options: SpeculationOptions, target: Target) -> SpeculationOptions:
    """The options with the speculator that the package brings for the model, if none was named and one is wanted."""
    named = options.speculator
    if named is None and "turbo" in options.drafters and target.model is not None:
        found = shipped_speculator(target.model.spec, target.path)
        named = None if found is None else str(found)
    return msgspec.structs.replace(options, speculator=None if named == NO_SPECULATOR else named)


def open_drafters(options: SpeculationOptions, target: Target, backend: Backend) -> Iterator[tuple[str, Made]]:
    """The drafters that the options ask for, by name. Automatically: those that cost next to nothing, a draft model
    that was named, a speculator that was named or that the package brings, and speculators of adapters where there can
    be any. ``suffix`` finds all that ``ngram`` finds."""
    options = _with_speculator(options, target)
    if options.speculate == AUTO:
        names = {"grammar", "suffix"} | ({"model"} if options.draft_model else set())
        names |= {"turbo"} if options.speculator or _adapted(target, backend) else set()
    else:
        names = set(options.drafters)
    for name, make in DRAFTERS.items():
        if name in names:
            yield name, make(options, target, backend)
