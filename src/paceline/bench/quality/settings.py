"""Settings under which the same questions are answered, and which of them promise the same answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from paceline.errors import InvalidRequestError
from paceline.speculation.options import AUTO, OFF, SpeculationOptions

BASE = "base"
#: What is compared when nothing is named.
DEFAULT_SETTINGS = (BASE, "speculation=off", "prefix-cache=off")


def _speculation(value: str) -> SpeculationOptions:
    names = tuple(name for name in value.split("+") if name)
    options = SpeculationOptions(speculate=value if value in (AUTO, OFF) else names)
    options.validate()
    return options


def _switch(value: str) -> bool:
    if value not in ("on", "off"):
        raise ValueError("on or off")
    return value == "on"


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise ValueError("a positive number")
    return int(value)


def _cache_dtype(value: str) -> str:
    from paceline.backends.base import CacheDtype

    if value not in get_args(CacheDtype):
        raise ValueError(f"one of {', '.join(get_args(CacheDtype))}")
    return value


@dataclass(frozen=True, slots=True)
class Knob:
    """Something that can be set. ``option``: its field of ``EngineOptions``. ``exact``: whether the engine promises the
    same tokens whatever its value is (docs/architecture.md, "Why the output never changes")."""

    option: str
    read: Callable[[str], Any]
    exact: bool


KNOBS: Mapping[str, Knob] = {
    "speculation": Knob("speculation", _speculation, True),
    "prefix-cache": Knob("prefix_cache", _switch, True),
    "threads": Knob("threads", _count, True),
    "max-running": Knob("max_running", _count, True),
    "max-rows": Knob("max_rows", _count, True),
    "backend": Knob("backend", str, False),
    "kv-cache-dtype": Knob("kv_cache_dtype", _cache_dtype, False),
    "model": Knob("model", str, False),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """``values``: the raw text of each knob that it turns; the others stay as the command has them."""

    name: str
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def numerics(self) -> tuple[tuple[str, str], ...]:
        """What makes numbers, and so answers, differ: settings that agree in it promise the same answers."""
        return tuple(sorted((key, value) for key, value in self.values.items() if not KNOBS[key].exact))

    def engine_options(self) -> dict[str, Any]:
        """The fields of ``EngineOptions`` that it sets."""
        return {KNOBS[key].option: KNOBS[key].read(value) for key, value in self.values.items()}

    def request_fields(self) -> dict[str, Any]:
        """The same as fields of a request to a running Paceline server. Raises ``InvalidRequestError`` for what only a
        server's start can set."""
        for key in self.values:
            if key != "speculation":
                raise InvalidRequestError(
                    f"--setting {self.name}: {key} is chosen when a server starts, not by a request; start a second "
                    "server with it and give --url for each"
                )
        wish = self.values.get("speculation", AUTO)
        if wish == AUTO:
            return {}
        return {"speculative": {"enabled": False} if wish == OFF else {"drafters": wish.split("+")}}


def parse_setting(text: str) -> Setting:
    """``base``, or ``key=value`` pairs with commas. Raises ``InvalidRequestError`` with what is known."""
    if text == BASE:
        return Setting(BASE)
    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in KNOBS:
            known = ", ".join(KNOBS)
            raise InvalidRequestError(
                f"--setting {text!r}: {part!r} is not KEY=VALUE with one of the keys {known}; or give '{BASE}' alone"
            )
        if key in values:
            raise InvalidRequestError(f"--setting {text!r}: {key} is set twice")
        try:
            KNOBS[key].read(value)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"--setting {text!r}: {error}") from error
        except ValueError as error:
            raise InvalidRequestError(f"--setting {text!r}: {key} must be {error}, got {value!r}") from error
        values[key] = value
    return Setting(text, values)


def parse_settings(texts: Sequence[str]) -> list[Setting]:
    """Each setting once, in the order given. Raises ``InvalidRequestError``."""
    return [parse_setting(text) for text in dict.fromkeys(texts)]
