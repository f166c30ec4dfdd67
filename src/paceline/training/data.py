"""Rows to train on: a JSON-lines file, checked as a whole before anything else happens.

A row is a chat, ``{"messages": [{"role": ..., "content": ...}, ...]}``, or ``{"prompt": ..., "completion": ...}``.
What is learned is the last message of the assistant, or the completion, and that the answer ends there. A row whose
last message is the user's, or one without a completion, is a prompt: enough where the model's own answers are learned
from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import InvalidRequestError
from paceline.models.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
SHOWN_PROBLEMS = 20
LEAST_PROMPTS = 10  # different ones: fewer could not be divided into some to train on and some to judge by
MOST_HELD_OUT = 200  # rows: more would be measured longer, not better
LEAST_ROOM = 8  # tokens of the context for the answer to a prompt


@dataclass(frozen=True, slots=True)
class Example:
    """A row in token ids. ``answer_ids`` ends with an end-of-sequence token; None where the row is a prompt only."""

    line: int
    prompt_ids: list[int]
    answer_ids: list[int] | None

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids or ())


class _Problems:
    """Everything that is wrong with a file, so that it can be mended at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, what: str) -> None:
        self.found.append((line, what))

    def raise_any(self) -> None:
        if not self.found:
            return
        shown = [f"  line {line}: {what}" for line, what in sorted(self.found)[:SHOWN_PROBLEMS]]
        more = len(self.found) - len(shown)
        if more:
            shown.append(f"  and {more} more")
        lines = len({line for line, _ in self.found})
        raise InvalidRequestError(
            f"{self.path}: {lines} {'line' if lines == 1 else 'lines'} cannot be used; nothing was trained\n"
            + "\n".join(shown),
            param="data",
        )


def load_examples(
    path: Path, tokenizer: Tokenizer, eos_ids: frozenset[int], max_length: int, *, answers: bool
) -> list[Example]:
    """The rows of the file as the model reads them. ``answers``: whether every row must have one. ``max_length``: most
    tokens of a row, and ``eos_ids`` end an answer.

    Raises ``InvalidRequestError`` that lists every line that is wrong, and what is wrong with it (the first twenty).
    """
    problems = _Problems(path)
    rows = list(_read(path, problems))
    examples = []
    for line, row in rows:
        what = _check_row(row, answers)
        if what is not None:
            problems.add(line, what)
            continue
        try:
            example = _encode(line, row, tokenizer, eos_ids)
        except InvalidRequestError as error:
            problems.add(line, str(error))
            continue
        room = 0 if example.answer_ids is not None else LEAST_ROOM
        if example.length + room > max_length:
            kept = f", and {room} for an answer are kept free" if room else ""
            problems.add(line, f"it has {example.length} tokens; at most {max_length} are allowed{kept}")
        examples.append(example)
    problems.raise_any()
    prompts = len({tuple(example.prompt_ids) for example in examples})
    if prompts < LEAST_PROMPTS:
        raise InvalidRequestError(
            f"{path} has {prompts} different prompts; at least {LEAST_PROMPTS} are needed, some of them to judge by",
            param="data",
        )
    return examples


def split_examples(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(rows to train on, rows to judge by). Rows with the same prompt stay together: a prompt that was trained on says
    nothing about others."""
    prompts = sorted({tuple(example.prompt_ids) for example in examples})
    count = min(max(2, round(share * len(prompts))), MOST_HELD_OUT, len(prompts) - 2)
    order = np.random.default_rng([seed, 4]).permutation(len(prompts))
    held = {prompts[int(i)] for i in order[:count]}
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        sides[tuple(example.prompt_ids) in held].append(example)
    return sides


def data_digest(path: Path) -> str:
    """Names the file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, problems: _Problems) -> Iterator[tuple[int, Any]]:
    """Lines and what they hold. Only a line feed ends a line: other separators may stand in a text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}", param="data") from error
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            yield number, json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            problems.add(number, f"it is not UTF-8: byte {error.start + 1} is {raw[error.start]:#04x}")
        except json.JSONDecodeError as error:
            problems.add(number, f"it is not JSON: {error.msg}, column {error.colno}")
        except RecursionError:
            problems.add(number, "it is nested too deeply")


def _check_row(row: Any, answers: bool) -> str | None:
    """What is wrong with a row, None: nothing."""
    if not isinstance(row, dict):
        return f"expected an object with 'messages', or with 'prompt' and 'completion'; it is {_kind(row)}"
    if "messages" in row:
        return _unknown(row, ("messages",)) or _check_messages(row["messages"], answers)
    if "prompt" not in row:
        return f"expected 'messages', or 'prompt' and 'completion'; it has {_listed(row)}"
    if what := _unknown(row, ("prompt", "completion")):
        return what
    if answers and "completion" not in row:
        return "it has no 'completion': an adapter learns from answers"
    for key in ("prompt", "completion"):
        value = row.get(key)
        if key in row and not isinstance(value, str):
            return f"{key!r} must be a string; it is {_kind(value)}"
        if value == "":
            return f"{key!r} is empty"
    return None


def _check_messages(messages: Any, answers: bool) -> str | None:
    if not isinstance(messages, list) or not messages:
        return f"'messages' must be a list of messages; it is {_kind(messages) if messages != [] else 'empty'}"
    for number, message in enumerate(messages, 1):
        at = f"message {number}"
        if not isinstance(message, dict):
            return f"{at} must be an object with 'role' and 'content'; it is {_kind(message)}"
        if what := _unknown(message, ("role", "content")):
            return f"{at}: {what}"
        if message.get("role") not in ROLES:
            return f"{at}: 'role' must be one of {', '.join(ROLES)}; it is {message.get('role')!r}"
        content = message.get("content")
        if not isinstance(content, str):
            return f"{at}: 'content' must be a string; it is {_kind(content)}"
        if not content.strip():
            return f"{at}: 'content' is empty"
    last = messages[-1]["role"]
    if last == "system" or (answers and last != "assistant"):
        return f"the last message must be the assistant's; it is the {last}'s"
    if not any(message["role"] == "user" for message in messages):
        return "there is no message of the user"
    return None


def _encode(line: int, row: Mapping[str, Any], tokenizer: Tokenizer, eos_ids: frozenset[int]) -> Example:
    """Prompt and answer apart, so that the prompt's tokens are those that a request has."""
    if "messages" not in row:
        answer = row.get("completion")
        prompt_ids = tokenizer.encode(row["prompt"])
        if not prompt_ids:
            raise InvalidRequestError("'prompt' has no tokens")
        return Example(line, prompt_ids, None if answer is None else _answer_ids(answer, tokenizer, eos_ids))
    messages = row["messages"]
    answered = messages[-1]["role"] == "assistant"
    prompt = tokenizer.apply_chat_template(messages[:-1] if answered else messages)
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    if not answered:
        return Example(line, prompt_ids, None)
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise InvalidRequestError(
            "the model's chat template writes the conversation before the answer differently once it is answered; "
            "give 'prompt' and 'completion' instead of 'messages'"
        )
    return Example(line, prompt_ids, _answer_ids(whole[len(prompt) :], tokenizer, eos_ids))


def _answer_ids(text: str, tokenizer: Tokenizer, eos_ids: frozenset[int]) -> list[int]:
    """The answer up to the token that ends it; what the template writes behind that is never generated."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    ends = [place for place, token in enumerate(ids) if token in eos_ids]
    if len(ends) > 1 or (ends and tokenizer.decode(ids[ends[0] + 1 :]).strip()):
        raise InvalidRequestError("the answer has a token in it that ends answers")
    ids = ids[: ends[0] + 1] if ends else [*ids, _end(tokenizer, eos_ids)]
    if len(ids) == 1:
        raise InvalidRequestError("the answer has no tokens")
    return ids


def _end(tokenizer: Tokenizer, eos_ids: frozenset[int]) -> int:
    """The token that ends an answer where the template does not say."""
    token = tokenizer.special_tokens.get("eos_token")
    found = None if token is None else tokenizer.token_to_id(token)
    if found is not None and found in eos_ids:
        return found
    if not eos_ids:
        raise InvalidRequestError("the model has no end-of-sequence token, so no answer could end")
    return min(eos_ids)


def _unknown(row: Mapping[str, Any], known: Sequence[str]) -> str | None:
    extra = [key for key in row if key not in known]
    if not extra:
        return None
    return f"unknown {'key' if len(extra) == 1 else 'keys'} {_listed(extra)}; known: {', '.join(known)}"


def _listed(keys: Any) -> str:
    return ", ".join(repr(key) for key in keys) or "no keys"


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "str": "a string", "bool": "true or false"}
    return names.get(type(value).__name__, "a number")
