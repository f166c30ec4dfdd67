"""Answers of the two generating endpoints, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from paceline.engine.output import RequestText, SequenceOutput
from paceline.server.generation import Generation
from paceline.server.logprobs import CompletionLogprobs, TokenNames, chat_logprobs, prompt_logprobs

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What stays the same in all chunks of an answer, and what the client wants to see in them."""

    id: str
    created: int
    model: str
    names: TokenNames
    logprobs: int | None = None  # alternatives a token
    prompt_logprobs: int | None = None
    include_usage: bool = False  # in a stream: a last chunk with the usage
    continuous_usage: bool = False

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """Completions that repeat their prompt. ``texts[i]`` is prompt ``i``; with ``only`` nothing else is shown."""

    texts: list[str] = field(default_factory=list)
    only: bool = False

    def text(self, prompt: int) -> str:
        return self.texts[prompt] if self.texts else ""


class Chunks:
    """Common to both chunk writers: what stands around the new text is encoded beforehand."""

    kind = ""

    def __init__(self, answer: Answer, generation: Generation) -> None:
        self._answer = answer
        self._generation = generation
        self._head = b"data: " + _encode(answer.head(self.kind))[:-1] + b',"choices":['
        self._tail = b',"usage":null}\n\n' if answer.include_usage else b"}\n\n"
        self._between: dict[tuple[int, int], bytes] = {}

    def write(self, new: Sequence[tuple[int, SequenceOutput]]) -> bytes:
        if len(new) == 1:
            return self.chunk(*new[0])
        return b"".join([self.chunk(prompt, out) for prompt, out in new])

    def chunk(self, prompt: int, out: SequenceOutput) -> bytes:
        raise NotImplementedError

    def end(self) -> bytes:
        if not self._answer.include_usage:
            return b""
        return self._head + b'],"usage":' + _encode(self._generation.usage.as_dict()) + b"}\n\n"

    def tail(self) -> bytes:
        if not self._answer.continuous_usage:
            return self._tail
        return b',"usage":' + _encode(self._generation.usage.as_dict()) + b"}\n\n"


class ChatChunks(Chunks):
    """Chunks of a chat completion. The first one of a choice carries the role and the first text."""

    kind = "chat.completion.chunk"

    def chunk(self, prompt: int, out: SequenceOutput) -> bytes:
        start = self._between.get((prompt, out.index))
        if not out.text and out.finish_reason is None and not out.logprobs:
            return b""
        if start is None:
            start = self._head + b'{"index":%d,"delta":{' % out.index
            self._between[prompt, out.index] = start + b'"content":'
            start += b'"role":"assistant","content":'
        logprobs = b"null"
        if self._answer.logprobs is not None:
            logprobs = _encode(chat_logprobs(out.logprobs or (), self._answer.logprobs, self._answer.names))
        return b"".join(
            (
                start,
                _encode(out.text),
                b'},"logprobs":',
                logprobs,
                b',"finish_reason":',
                _finish(out),
                b"}]",
                self.tail(),
            )
        )


class CompletionChunks(Chunks):
    """Chunks of a completion."""

    kind = "text_completion"

    def __init__(self, answer: Answer, generation: Generation, echo: Echo) -> None:
        super().__init__(answer, generation)
        self._echo = echo

    def chunk(self, prompt: int, out: SequenceOutput) -> bytes:
        start = self._between.get((prompt, out.index))
        text = "" if self._echo.only else out.text
        first = start is None
        if start is None:
            text = self._echo.text(prompt) + text
            index = prompt * self._generation.requests[0].params.n + out.index
            start = self._between[prompt, out.index] = self._head + b'{"index":%d,"text":' % index
        if not text and out.finish_reason is None and not out.logprobs:
            return b""
        logprobs = b"null"
        if self._answer.logprobs is not None:
            logprobs = _encode(completion_logprobs(self._answer, self._generation, self._echo, prompt, out, first))
        return b"".join(
            (start, _encode(text), b',"logprobs":', logprobs, b',"finish_reason":', _finish(out), b"}]", self.tail())
        )


def _finish(out: SequenceOutput) -> bytes:
    """The finish reason, and behind it vLLM's ``stop_reason``."""
    if out.finish_reason is None:
        return b"null"
    if out.stop_reason is None:
        return b'"%b","stop_reason":null' % out.finish_reason.encode()
    return b'"%b","stop_reason":%b' % (out.finish_reason.encode(), _encode(out.stop_reason))


def completion_logprobs(
    answer: Answer, generation: Generation, echo: Echo, prompt: int, out: SequenceOutput, first: bool
) -> dict[str, Any]:
    """``logprobs`` of a completion choice, or of its chunk ``out``; the ``first`` one begins with the echoed prompt."""
    assert answer.logprobs is not None
    result = CompletionLogprobs(answer.logprobs, answer.names)
    entries = generation.texts[prompt].prompt_logprobs
    if first and echo.texts and entries is not None:
        result.add_prompt(generation.requests[prompt].prompt_ids, entries)
    if not echo.only:
        result.add(out.logprobs or (), out.text_offsets, len(echo.text(prompt)))
    return result.as_dict()


def chat_answer(answer: Answer, generation: Generation) -> dict[str, Any]:
    """The whole chat completion."""
    (text,) = generation.texts
    choices = []
    for out in text.output().outputs:
        logprobs = None
        if answer.logprobs is not None:
            logprobs = chat_logprobs(out.logprobs or (), answer.logprobs, answer.names)
        message = {"role": "assistant", "content": out.text, "refusal": None}
        choices.append({"index": out.index, "message": message, "logprobs": logprobs, **_ending(out)})
    body = {**answer.head("chat.completion"), "choices": choices, "usage": generation.usage.as_dict()}
    if answer.prompt_logprobs is not None:
        body["prompt_logprobs"] = _prompt_logprobs(answer, text)
    return body


def completion_answer(answer: Answer, generation: Generation, echo: Echo) -> dict[str, Any]:
    """The whole completion; choices of one prompt stand together."""
    choices: list[dict[str, Any]] = []
    for prompt, text in enumerate(generation.texts):
        for out in text.output().outputs:
            logprobs = None
            if answer.logprobs is not None:
                logprobs = completion_logprobs(answer, generation, echo, prompt, out, first=True)
            shown = echo.text(prompt) + ("" if echo.only else out.text)
            choice = {"index": len(choices), "text": shown, "logprobs": logprobs, **_ending(out)}
            if answer.prompt_logprobs is not None:
                choice["prompt_logprobs"] = _prompt_logprobs(answer, text)
            choices.append(choice)
    return {**answer.head("text_completion"), "choices": choices, "usage": generation.usage.as_dict()}


def _ending(out: SequenceOutput) -> dict[str, Any]:
    return {"finish_reason": out.finish_reason, "stop_reason": out.stop_reason}


def _prompt_logprobs(answer: Answer, text: RequestText) -> list[dict[str, dict[str, Any]] | None] | None:
    if answer.prompt_logprobs is None or text.prompt_logprobs is None:
        return None
    return prompt_logprobs(text.prompt_logprobs, answer.prompt_logprobs, answer.names)
