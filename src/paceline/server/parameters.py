"""Parameters that are not in the schemas: accepted without effect, or refused by name until they have one.

Nothing that a client sends is dropped in silence: a name is in a schema, or in one of these two tables, or unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paceline.server.problems import ApiError

NO_EFFECT: dict[str, str] = {
    "user": "names the end user for OpenAI's abuse monitoring",
    "safety_identifier": "names the end user for OpenAI's abuse monitoring",
    "metadata": "labels a response in OpenAI's storage",
    "store": "asks OpenAI to keep the response; nothing is stored for this endpoint",
    "service_tier": "chooses OpenAI's price tier; see priority and latency_class",
    "prompt_cache_key": "routes to OpenAI's prompt cache; prefixes are cached without a key here",
    "prompt_cache_retention": "keeps a prompt in OpenAI's cache; blocks stay until evicted here",
    "parallel_tool_calls": "has a meaning only with tools",
}


def _one_of(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: any(value == item and type(value) is type(item) for item in neutral)


def _one(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 1


_TOOLS = "tool calling is not supported yet"
_STRUCTURE = "output constrained by a grammar or schema is not supported yet; guided_choice is"
_AUDIO = "only text goes in and out"
_REASONING = "reasoning controls are not supported; use chat_template_kwargs where the model's template has a switch"

# Name: (is this value harmless?, why any other is refused). null is harmless everywhere.
NOT_SUPPORTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tools": (_one_of([]), _TOOLS),
    "tool_choice": (_one_of("none", "auto"), _TOOLS),
    "functions": (_one_of([]), _TOOLS),
    "function_call": (_one_of("none", "auto"), _TOOLS),
    "response_format": (_one_of({"type": "text"}), _STRUCTURE),
    "guided_json": (_one_of(), _STRUCTURE),
    "guided_regex": (_one_of(), _STRUCTURE),
    "guided_grammar": (_one_of(), _STRUCTURE),
    "allowed_token_ids": (_one_of(), _STRUCTURE),
    "audio": (_one_of(), _AUDIO),
    "modalities": (_one_of(["text"]), _AUDIO),
    "prediction": (_one_of(), "predicted outputs are not supported; drafts need no hint here"),
    "reasoning_effort": (_one_of(), _REASONING),
    "verbosity": (_one_of("medium"), _REASONING),
    "web_search_options": (_one_of(), "the server does not search the web"),
    "suffix": (_one_of(""), "inserting between a prompt and a suffix is not supported"),
    "best_of": (_one, "ranking several sequences is not supported; ask for them with n and choose"),
    "use_beam_search": (_one_of(False), "beam search is not supported"),
    "length_penalty": (_one, "it has a meaning only with beam search, which is not supported"),
    "early_stopping": (_one_of(False), "it has a meaning only with beam search, which is not supported"),
    "chat_template": (_one_of(), "templates are taken from the model only, never from a request"),
    "documents": (_one_of([]), "documents are not supported; put them into the messages"),
    "truncate_prompt_tokens": (_one_of(), "prompts are never cut; send a shorter one"),
    "logits_processors": (_one_of([]), "code from a request is never run"),
    "prompt_embeds": (_one_of(), "prompts are text or token ids"),
    "adapter_source": (_one_of("local"), "adapters are loaded by whoever runs the server, see docs/adapters.md"),
    "merged_adapters": (_one_of(), "adapters are not merged; name one with model or adapter_id"),
    "api_token": (_one_of(), "nothing is fetched for a request"),
    "spaces_between_special_tokens": (_one_of(True), "only the default, true, is supported"),
}


# Keys of vLLM's structured_outputs beside "choice", with their harmless values.
_STRUCTURES: dict[str, Callable[[Any], bool]] = {
    "json": _one_of(),
    "json_object": _one_of(False),
    "regex": _one_of(),
    "grammar": _one_of(),
    "structural_tag": _one_of(),
    "whitespace_pattern": _one_of(),
    "disable_any_whitespace": _one_of(False),
    "disable_additional_properties": _one_of(False),
}


def screen_structure(value: Any) -> Any:
    """``structured_outputs`` without nulls and without what changes nothing. Raises ``ApiError`` for a structure that
    is not supported."""
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        if key not in _STRUCTURES:
            if item is not None or key != "choice":
                kept[key] = item
        elif item is not None and not _STRUCTURES[key](item):
            name, reason = f"structured_outputs.{key}", f"{_STRUCTURE}"
            raise ApiError(400, f"'{name}' is not supported: {reason}.", param=name, code="unsupported_parameter")
    return kept


def screen(data: dict[str, Any], own: frozenset[str]) -> dict[str, Any]:
    """``data`` without nulls (null means the default) and without parameters that change nothing.

    ``own`` are the names that the endpoint's schema knows. Raises ``ApiError`` for one that would change something
    and is not supported.
    """
    kept: dict[str, Any] = {}
    for name, value in data.items():
        if value is None or (name in NO_EFFECT and name not in own):
            if value is None and name not in own and name not in NO_EFFECT and name not in NOT_SUPPORTED:
                kept[name] = value  # unknown even with null: let the schema name it
            continue
        if name in own or name not in NOT_SUPPORTED:
            kept[name] = value
            continue
        harmless, reason = NOT_SUPPORTED[name]
        if not harmless(value):
            raise ApiError(400, f"'{name}' is not supported: {reason}.", param=name, code="unsupported_parameter")
    return kept
