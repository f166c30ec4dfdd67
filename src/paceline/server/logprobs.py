"""Log probabilities in the two shapes of OpenAI's API, and vLLM's for prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paceline.engine.detokenizer import TokenBytes
from paceline.engine.messages import TokenLogprobs

LOWEST = -9999.0  # JSON has no minus infinity


class TokenNames:
    """How a token is written in an answer. Bytes that are not characters of their own are spelled out, so that two
    halves of different characters stay different tokens."""

    def __init__(self, table: TokenBytes, as_ids: bool = False) -> None:
        self._table = table
        self._as_ids = as_ids

    def bytes(self, token_id: int) -> bytes:
        return self._table[token_id]

    def __getitem__(self, token_id: int) -> str:
        if self._as_ids:
            return f"token_id:{token_id}"
        raw = self._table[token_id]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _floor(logprob: float) -> float:
    return logprob if logprob > LOWEST else LOWEST


def _ranked(entry: TokenLogprobs, count: int) -> list[tuple[int, float]]:
    """The ``count`` likeliest tokens, and the chosen one behind them when it is not among them."""
    pairs = list(zip(entry.top_ids[:count], entry.top_logprobs[:count], strict=True))
    if all(token != entry.token_id for token, _ in pairs):
        pairs.append((entry.token_id, entry.logprob))
    return pairs


def chat_logprobs(entries: Sequence[TokenLogprobs], count: int, names: TokenNames) -> dict[str, Any]:
    """``logprobs`` of a chat choice. ``top_logprobs`` has exactly ``count`` alternatives, as OpenAI's has."""
    content = []
    for entry in entries:
        top = zip(entry.top_ids[:count], entry.top_logprobs[:count], strict=True)
        content.append(
            {**_chat_token(entry.token_id, entry.logprob, names), "top_logprobs": [_chat_token(*t, names) for t in top]}
        )
    return {"content": content, "refusal": None}


def _chat_token(token_id: int, logprob: float, names: TokenNames) -> dict[str, Any]:
    return {"token": names[token_id], "logprob": _floor(logprob), "bytes": list(names.bytes(token_id))}


class CompletionLogprobs:
    """``logprobs`` of a completion choice: of the echoed prompt, then of new tokens."""

    def __init__(self, count: int, names: TokenNames) -> None:
        self._count = count
        self._names = names
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def add_prompt(self, ids: Sequence[int], entries: Sequence[TokenLogprobs | None]) -> None:
        """The prompt's tokens; the first one has no probability."""
        position = 0
        for token_id, entry in zip(ids, entries, strict=True):
            self._add(token_id, entry, position)
            position += len(self._names[token_id])

    def add(self, entries: Sequence[TokenLogprobs], offsets: Sequence[int], base: int) -> None:
        """New tokens at ``offsets`` from character ``base`` of the choice's text."""
        for entry, offset in zip(entries, offsets, strict=True):
            self._add(entry.token_id, entry, base + offset)

    def _add(self, token_id: int, entry: TokenLogprobs | None, offset: int) -> None:
        names = self._names
        self._tokens.append(names[token_id])
        self._offsets.append(offset)
        self._logprobs.append(None if entry is None else _floor(entry.logprob))
        self._top.append(None if entry is None else {names[t]: _floor(p) for t, p in _ranked(entry, self._count)})

    def as_dict(self) -> dict[str, Any]:
        return {
            "text_offset": self._offsets,
            "token_logprobs": self._logprobs,
            "tokens": self._tokens,
            "top_logprobs": self._top,
        }


def prompt_logprobs(
    entries: Sequence[TokenLogprobs | None], count: int, names: TokenNames
) -> list[dict[str, dict[str, Any]] | None]:
    """vLLM's ``prompt_logprobs``: for each position, token id to log probability, rank and text."""
    result: list[dict[str, dict[str, Any]] | None] = []
    for entry in entries:
        if entry is None:
            result.append(None)
            continue
        ranks = {token: rank for rank, token in enumerate(entry.top_ids, 1)} | {entry.token_id: entry.rank}
        result.append(
            {
                str(token): {"logprob": _floor(p), "rank": ranks[token], "decoded_token": names[token]}
                for token, p in _ranked(entry, count)
            }
        )
    return result
