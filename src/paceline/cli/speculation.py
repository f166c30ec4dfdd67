"""The flags about speculation, the same ones in every command that starts an engine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from paceline.speculation.options import SpeculationOptions
    from paceline.speculation.vllm_config import VllmConfig

logger = logging.getLogger(__name__)

_PANEL = "Speculation"

Speculate = Annotated[
    str | None,
    typer.Option(
        metavar="auto|off|NAME[,NAME...]",
        help="Who drafts: all drafters that the model can have (auto, the default), none, or only these: suffix, "
        "ngram, grammar, model, turbo.",
        rich_help_panel=_PANEL,
    ),
]
MaxDraft = Annotated[
    int | None,
    typer.Option(help="Most draft tokens of a sequence in a step. Default: costs decide.", rich_help_panel=_PANEL),
]
DraftModel = Annotated[
    str | None,
    typer.Option(
        help="Small model with the same vocabulary, for the drafter 'model': folder, .gguf file, Hub id or alias.",
        rich_help_panel=_PANEL,
    ),
]
Speculator = Annotated[
    str | None,
    typer.Option(
        help="Folder of a speculator that was trained for this model, for the drafter 'turbo'; 'none': not even the "
        "one that the package may bring.",
        rich_help_panel=_PANEL,
    ),
]
Sampling = Annotated[
    str | None,
    typer.Option(
        metavar="exact|coupled",
        help="coupled: sampled text depends on the seed alone, whoever drafts; exact (the default): best acceptance.",
        rich_help_panel=_PANEL,
    ),
]
SpeculativeConfig = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help='The same in vLLM\'s keys, such as \'{"method": "ngram", "num_speculative_tokens": 5}\'.',
        rich_help_panel=_PANEL,
    ),
]

#: The flag that sets each option.
_FLAGS = {
    "speculate": "--speculate",
    "max_draft": "--max-draft",
    "draft_model": "--draft-model",
    "speculator": "--speculator",
    "sampling": "--sampling",
}


def speculation_options(
    speculate: str | None = None,
    max_draft: int | None = None,
    draft_model: str | None = None,
    sampling: str | None = None,
    speculative_config: str | None = None,
    speculator: str | None = None,
) -> SpeculationOptions:
    """What the flags say; None: not given. Logs what has no effect.

    Raises ``InvalidRequestError`` naming the flag or the key in vLLM's configuration, its value and the limit, or both
    when they contradict.
    """
    from paceline.speculation.options import SpeculationOptions
    from paceline.speculation.vllm_config import VllmConfig, parse

    given: dict[str, Any] = {
        "speculate": None if speculate is None else _drafters(speculate),
        "max_draft": max_draft,
        "draft_model": draft_model,
        "speculator": speculator,
        "sampling": sampling,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    config = VllmConfig() if speculative_config is None else parse(speculative_config)
    _check_agreement(flags, config)
    for note in config.notes:
        logger.warning("--speculative-config: %s", note)
    options = SpeculationOptions(**{**config.options, **flags})
    _validate(options, flags, config)
    return options


def _drafters(text: str) -> str | tuple[str, ...]:
    """ "auto" and "off" as they are, names as a tuple without repetitions."""
    names = tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip().lower())))
    return names[0] if names in (("auto",), ("off",)) else names


def _check_agreement(flags: dict[str, Any], config: VllmConfig) -> None:
    from paceline.errors import InvalidRequestError

    for name, value in flags.items():
        if name in config.options and config.options[name] != value:
            key, other = config.sources[name], config.options[name]
            raise InvalidRequestError(
                f"{_FLAGS[name]} {_shown(value)} contradicts {key} in --speculative-config, which means "
                f"{_FLAGS[name]} {_shown(other)}: give one of them",
                param=name,
            )


def _validate(options: SpeculationOptions, flags: dict[str, Any], config: VllmConfig) -> None:
    """Says which flag or key it was."""
    from paceline.errors import InvalidRequestError

    try:
        options.validate()
    except InvalidRequestError as error:
        name, message = error.param or "", error.message
        given_as = _FLAGS.get(name, name)
        if name not in flags and name in config.sources:
            given_as = f"{config.sources[name]} in --speculative-config"
        message = given_as + message[len(name) :] if message.startswith(name) else f"{given_as}: {message}"
        raise InvalidRequestError(message, param=name) from None


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
