"""Chat templates: Jinja as ``transformers`` runs it, in a sandbox, without importing ``transformers``."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from paceline.errors import InvalidRequestError

_MARK = "\ue000continue\ue001"  # private-use characters: where the final message ends


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; for a prompt it is transparent."""

    tags = {"generation"}  # noqa: RUF012  (the base class declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes <, > and & for HTML, which would change what the model reads.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class ChatTemplate:
    """The template of one model; ``special_tokens`` (``bos_token``, ``eos_token``, ...) are visible in it."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidRequestError(
                f"the model's chat template has an error in line {error.lineno}: {error}"
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt. ``continue_final_message`` ends it inside the last message, so that the model goes on with it.

        Raises ``InvalidRequestError`` with the template's own words where it refuses the messages."""
        if continue_final_message and add_generation_prompt:
            raise InvalidRequestError("add_generation_prompt and continue_final_message exclude each other")
        chat = list(messages)
        if continue_final_message:
            chat = _mark_end(chat)
        values: dict[str, Any] = {**self._special_tokens, **kwargs}
        values.update(messages=chat, tools=tools, documents=documents, add_generation_prompt=add_generation_prompt)
        try:
            text = self._template.render(values)
        except Exception as error:  # a template is a program that came with the model
            raise InvalidRequestError(
                f"the model's chat template refuses the messages: {error}", param="messages"
            ) from error
        return _cut(text) if continue_final_message else text


def _mark_end(messages: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A copy of the messages with the end of the last one's text marked."""
    final = dict(copy.deepcopy(messages[-1])) if messages else {}
    content = final.get("content")
    if isinstance(content, str):
        final["content"] = content + _MARK + " "
        return [*messages[:-1], final]
    parts = [part for part in content or [] if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if not parts:
        raise InvalidRequestError("continue_final_message needs a last message with text", param="messages")
    parts[-1]["text"] += _MARK + " "
    return [*messages[:-1], final]


def _cut(text: str) -> str:
    """What stands before the mark. Where the template has trimmed the space that stood behind it, it would have trimmed
    those before it too."""
    head, mark, tail = text.rpartition(_MARK)
    if not mark:
        raise InvalidRequestError("the model's chat template drops the final message, so it cannot be continued")
    return head if tail.startswith(" ") else head.rstrip()
