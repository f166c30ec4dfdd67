"""Texts as vectors, to tell which are alike: a sentence model where it can be had, counted n-grams where it cannot."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int], None]  # called with the number of texts that are done

GRAMS = (3, 4, 5)  # characters
BUCKETS = 4096
TEXT_CHARACTERS = 4000  # of a text that are looked at; the sentence model sees fewer still


class Embedder(Protocol):
    """``name`` goes into the name of the cached choice; ``reason`` is for the report."""

    @property
    def name(self) -> str: ...

    @property
    def reason(self) -> str: ...

    def embed(self, texts: Sequence[str], show: Progress) -> Vectors:
        """[texts, dimensions], each row of unit length."""
        ...


class NgramVectors:
    """Hashed character n-grams, weighted by how rare they are among the texts (TF-IDF).

    Knows words, not meanings: texts that say the same in other words look different.
    """

    name = f"char-{GRAMS[0]}-{GRAMS[-1]}-tfidf-{BUCKETS}"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def embed(self, texts: Sequence[str], show: Progress) -> Vectors:
        counts = np.zeros((len(texts), BUCKETS), dtype=np.float32)
        for row, text in enumerate(texts):
            for gram, count in _grams(text).items():
                counts[row, zlib.crc32(gram.encode()) % BUCKETS] += count
            show(row + 1)
        frequency = (counts > 0).sum(axis=0)
        rarity = np.log((1 + len(texts)) / (1 + frequency)) + 1
        return unit_length(np.log1p(counts) * rarity.astype(np.float32))


def _grams(text: str) -> Counter[str]:
    text = " ".join(text[:TEXT_CHARACTERS].lower().split())
    return Counter(text[i : i + size] for size in GRAMS for i in range(len(text) - size + 1))


def unit_length(vectors: Vectors) -> Vectors:
    """Rows divided by their lengths; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled
