"""Sentencepiece BPE as a ``tokenizers`` backend: merges recovered from the scores of the pieces.

The vocabulary comes from GGUF metadata or from a ``tokenizer.model`` file, a protocol buffer of which five fields
matter; reading those needs no package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from paceline.errors import ModelLoadError

#: Sentencepiece's own numbers for the kinds of pieces (GGUF uses the same).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SpacePrefix = Literal["never", "first", "always"]
_SPACE = "▁"


@dataclass(frozen=True, slots=True)
class SentencePieces:
    """A vocabulary: piece, score and kind by id.

    ``space_prefix``: where a space is put before text: at its beginning (``first``), there and after every added token
    (``always``, as llama.cpp and the older ``transformers`` do), or ``never``."""

    tokens: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    space_prefix: SpacePrefix

    def added_tokens(self) -> list[AddedToken]:
        """Tokens matched in the raw text, before anything else: control tokens and those the user defined."""
        return [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(self.tokens, self.types, strict=True)
            if kind in (CONTROL, USER_DEFINED)
        ]


def merges_from_scores(pieces: SentencePieces) -> list[tuple[str, str]]:
    """Every way of joining two pieces into a third, best third first: sentencepiece always makes the join whose
    result scores highest (leftmost on ties), which is what BPE does with merges in this order."""
    mergeable = {
        token: score
        for token, score, kind in zip(pieces.tokens, pieces.scores, pieces.types, strict=True)
        if kind in (NORMAL, USER_DEFINED, UNUSED)
    }
    merges: list[tuple[str, str]] = []
    for token in sorted(mergeable, key=mergeable.__getitem__, reverse=True):
        for cut in range(len(token) - 1, 0, -1):
            left, right = token[:cut], token[cut:]
            if left in mergeable and right in mergeable:
                merges.append((left, right))
    return merges


def sentencepiece_backend(pieces: SentencePieces) -> tokenizers.Tokenizer:
    """The tokenizer, without tokens before or after a text."""
    ids = {token: index for index, token in enumerate(pieces.tokens)}
    unknown = next((token for token, kind in zip(pieces.tokens, pieces.types, strict=True) if kind == UNKNOWN), None)
    has_bytes = BYTE in pieces.types
    if unknown is None and not has_bytes:
        raise ModelLoadError("the sentencepiece vocabulary has neither an unknown token nor bytes to fall back to")
    backend = tokenizers.Tokenizer(
        models.BPE(
            ids, merges_from_scores(pieces), unk_token=unknown, fuse_unk=unknown is not None, byte_fallback=has_bytes
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    undo = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if pieces.space_prefix == "always":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
    elif pieces.space_prefix == "first":  # only this step knows where a piece of text stands
        backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=False)
    else:
        backend.normalizer = spaces
    if pieces.space_prefix != "never":
        undo.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(undo)
    backend.add_tokens(pieces.added_tokens())
    return backend


_BPE = 2  # TrainerSpec.model_type
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of a protocol buffer


def read_model_file(path: Path) -> SentencePieces:
    """The vocabulary of a sentencepiece ``tokenizer.model``. Raises ``ModelLoadError`` for a damaged file and for
    what the backend does not do: unigram models, and normalization of characters or spaces."""
    tokens: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1 and isinstance(value, bytes):
                piece = dict(_fields(value))
                kind, text = int(piece.get(3, NORMAL)), bytes(piece[1]).decode()  # type: ignore[arg-type]
                # Spaces inside a user's token are matched in the raw text, where they are spaces.
                tokens.append(text.replace(_SPACE, " ") if kind == USER_DEFINED else text)
                scores.append(struct.unpack("<f", bytes(piece.get(2, bytes(4))))[0])  # type: ignore[arg-type]
                types.append(kind)
            elif field == 2 and isinstance(value, bytes):
                trainer = dict(_fields(value))
            elif field == 3 and isinstance(value, bytes):
                normalizer = dict(_fields(value))
    except (OSError, IndexError, KeyError, ValueError, struct.error) as error:
        raise ModelLoadError(f"cannot read {path} as a sentencepiece model: {error!r}") from error
    if trainer.get(3) != _BPE:
        raise ModelLoadError(f"{path} is not a sentencepiece BPE model")
    if normalizer.get(2) or normalizer.get(4, 1):
        raise ModelLoadError(f"{path} normalizes text, which is not supported")
    return SentencePieces(tokens, scores, types, "first" if normalizer.get(3, 1) else "never")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and raw value of each field of a protocol-buffer message."""
    pos = 0
    while pos < len(data):
        key, pos = _varint(data, pos)
        wire = key & 7
        if wire == _VARINT:
            value, pos = _varint(data, pos)
            yield key >> 3, value
            continue
        if wire not in (_FIXED64, _BYTES, _FIXED32):
            raise ValueError(f"wire type {wire}")
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
        if wire == _BYTES:
            size, pos = _varint(data, pos)
        if pos + size > len(data):
            raise ValueError("a field is longer than the file")
        yield key >> 3, data[pos : pos + size]
        pos += size


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    """A number in 7-bit groups, the lowest first; and the position after it."""
    value = shift = 0
    while True:
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, pos
