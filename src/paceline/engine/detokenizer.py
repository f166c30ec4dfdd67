"""Tokens to text, one at a time: each token's bytes are looked up once, then UTF-8 is decoded incrementally.

Working on bytes instead of re-decoding a window of tokens makes a token O(1), never splits or repeats a character,
and gives the API the bytes of each token. It needs a decoder whose tokens stand for bytes on their own: byte-level
BPE, and sentencepiece with or without byte fallback, which covers every supported family. Any other decoder goes
through ``tokenizers.decoders.DecodeStream``.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import tokenizers
from tokenizers.decoders import DecodeStream

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Detokenizer(Protocol):
    """Text of one sequence, in the making."""

    def add(self, token_id: int) -> str:
        """The characters that this token completes; "" while a character is incomplete or the token is skipped."""


class TokenBytes:
    """The bytes that each token of a tokenizer adds to a text; one for a model, shared by all its requests.

    ``special_ids`` are the tokens that ``skip_special_tokens`` leaves out.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, special_ids: Collection[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.special_ids = frozenset(special_ids)
        self._cache: dict[int, bytes] = {}
        self._byte_level = False
        self._byte_fallback = False
        self._replace: list[tuple[str, str]] = []
        self._leading_space = 0  # how many leading spaces of a text the decoder drops
        self._drop_marker = ""  # Metaspace: this marker vanishes from the first token of a text
        self._by_bytes = self._read_decoder(_decoder_state(tokenizer))

    def __getitem__(self, token_id: int) -> bytes:
        """Bytes of the token inside a text; b"" for an id outside the vocabulary."""
        piece = self._cache.get(token_id)
        if piece is None:
            piece = self._cache[token_id] = self._bytes_of(token_id)
        return piece

    def detokenizer(self, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> Detokenizer:
        """Decodes what follows ``prompt_ids``: the text of the prompt and the new text join to the text of both. So a
        sentencepiece word keeps the space before it unless nothing stands in front of it."""
        skipped = self.special_ids if skip_special_tokens else frozenset()
        if not self._by_bytes:
            return _StreamDetokenizer(self.tokenizer, prompt_ids, skip_special_tokens)
        at_start = bool(self._leading_space or self._drop_marker)
        if at_start:
            at_start = not any(token not in skipped and self[token] for token in reversed(prompt_ids))
        return _BytesDetokenizer(self, skipped, at_start)

    def first_piece(self, token_id: int) -> bytes:
        """Bytes of the token where it opens a text: without the space that sentencepiece puts there."""
        if self._drop_marker:
            token = self.tokenizer.id_to_token(token_id) or ""
            return token.replace(self._drop_marker, "").encode()
        piece = self[token_id]
        spaces = len(piece) - len(piece.lstrip(b" "))
        return piece[min(spaces, self._leading_space) :]

    def _bytes_of(self, token_id: int) -> bytes:
        token = self.tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        if token is None:
            return b""
        if not self._by_bytes:
            return self.tokenizer.decode([token_id], skip_special_tokens=False).encode()
        if self._byte_level:
            if all(char in _BYTE_OF_CHAR for char in token):
                return bytes(_BYTE_OF_CHAR[char] for char in token)
            return token.encode()
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        for old, new in self._replace:
            token = token.replace(old, new)
        return token.encode("utf-8", errors="replace")

    def _read_decoder(self, state: dict[str, Any]) -> bool:
        """Reads the decoder's steps; False when one of them is not of the kind that works token by token."""
        steps = state.get("decoders", []) if state.get("type") == "Sequence" else [state]
        return bool(steps) and all(self._read_step(step) for step in steps)

    def _read_step(self, step: dict[str, Any]) -> bool:
        match step:
            case {"type": "ByteLevel"}:
                self._byte_level = True
            case {"type": "ByteFallback"}:
                self._byte_fallback = True
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if not self._byte_level:
                self._replace.append((old, new))
            case {"type": "Fuse"}:
                pass
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
                self._leading_space = start
            case {"type": "Metaspace", "replacement": str(marker), "prepend_scheme": scheme}:
                self._replace.append((marker, " "))
                self._drop_marker = "" if scheme == "never" else marker
            case _:
                return False
        return True


class _BytesDetokenizer:
    """Looks the bytes up and decodes UTF-8 incrementally; bytes that can never form a character become U+FFFD."""

    __slots__ = ("_at_start", "_decode", "_skipped", "_table")

    def __init__(self, table: TokenBytes, skipped: frozenset[int], at_start: bool) -> None:
        self._table = table
        self._skipped = skipped
        self._at_start = at_start
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def add(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        if not self._at_start:
            return self._decode(self._table[token_id])
        piece = self._table.first_piece(token_id)
        self._at_start = not self._table[token_id]
        return self._decode(piece)


class _StreamDetokenizer:
    """For decoders that look at neighbouring tokens (WordPiece, BPE suffixes)."""

    _CONTEXT = 16  # prompt tokens that may still shape the first new ones

    def __init__(self, tokenizer: tokenizers.Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        for token_id in prompt_ids[-self._CONTEXT :]:
            self.add(token_id)

    def add(self, token_id: int) -> str:
        if self._tokenizer.id_to_token(token_id) is None:
            return ""
        return self._stream.step(self._tokenizer, token_id) or ""


def _decoder_state(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    decoder = tokenizer.decoder
    return {} if decoder is None else dict(json.loads(decoder.__getstate__()))


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: printable Latin-1 characters for themselves, the others from U+0100 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in shown}
    hidden = (byte for byte in range(256) if byte not in set(shown))
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(hidden)})
    return alphabet


_BYTE_OF_CHAR = _byte_level_alphabet()
