"""Sentencepiece BPE as a ``tokenizers`` backend: merges recovered from the scores of the pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers
from tokenizers import decoders, models, normalizers

from paceline.errors import ModelLoadError

#: Sentencepiece's own numbers for the kinds of pieces (GGUF uses the same).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPACE = "▁"


@dataclass(frozen=True, slots=True)
class SentencePieces:
    """A vocabulary: piece, score and kind by id. ``add_space_prefix``: a text gets a space in front."""

    tokens: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    add_space_prefix: bool


def merges_from_scores(pieces: SentencePieces) -> list[tuple[str, str]]:
    """Every way of joining two pieces into a third, best third first: sentencepiece always makes the join whose
    result scores highest (leftmost on ties), which is what BPE does with merges in this order."""
    mergeable = {
        token: score
        for token, score, kind in zip(pieces.tokens, pieces.scores, pieces.types, strict=True)
        if kind in (NORMAL, USER_DEFINED, UNUSED)
    }
    merges: list[tuple[float, int, str, str]] = []
    for token, score in mergeable.items():
        for cut in range(1, len(token)):
            left = token[:cut]
            if left in mergeable and token[cut:] in mergeable:
                merges.append((-score, -cut, left, token[cut:]))
    merges.sort()
    return [(left, right) for _, _, left, right in merges]


def sentencepiece_backend(pieces: SentencePieces) -> tokenizers.Tokenizer:
    """The tokenizer without its added tokens."""
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
    if pieces.add_space_prefix:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        undo.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = spaces
    backend.decoder = decoders.Sequence(undo)
    return backend
