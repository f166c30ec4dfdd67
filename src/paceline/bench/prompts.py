"""Prompts of an exact number of tokens, each one different, the same for every engine.

Engines get token ids, so that none has a shorter prompt than another; the tokenizer is the model's own.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from paceline.bench.text import passage
from paceline.errors import PacelineError

Encode = Callable[[str], list[int]]

MIN_CHARACTERS = 200  # shorter texts of a data folder are joined with the next one
SENTENCES = 40
TEXTS_PER_FILE = 200  # enough for any run, and a folder of large files is read in a moment
ATTEMPTS = 1000  # to find a prompt that begins like no other
REMEDY = "Give a folder with more text, ask for fewer rounds, or give none for generated sentences."
SKIPPED_FIELDS = frozenset({"tests", "schema", "candidates", "test", "canonical_solution"})


class DataError(PacelineError):
    """A data folder that cannot give the prompts that a run needs."""


@dataclass(slots=True)
class PromptSource:
    """Hands out prompts. ``encode`` is the model's tokenizer without special tokens.

    Texts come from ``data`` (a folder with JSON lines, gzip allowed, or text files) or, without one, from a grammar.
    Raises ``DataError`` for a folder without texts.
    """

    encode: Encode
    data: Path | None = None
    seed: int = 0
    _texts: list[str] = field(default_factory=list)
    _rng: random.Random = field(init=False)
    _made: int = 0
    _starts: set[tuple[int, ...]] = field(default_factory=set)
    _reserved: dict[int, deque[list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        if self.data is not None:
            self._texts = list(read_texts(self.data))
            if not self._texts:
                raise DataError(
                    f"no text of {MIN_CHARACTERS} characters or more was found in {self.data}: give a folder with "
                    "JSON lines or text files, or none for generated sentences"
                )
            self._rng.shuffle(self._texts)

    @property
    def description(self) -> str:
        return f"{len(self._texts)} texts of {self.data}" if self.data else "generated English sentences"

    @property
    def made(self) -> int:
        """Prompts made so far, handed out or reserved."""
        return len(self._starts)

    def reserve(self, lengths: Sequence[int]) -> None:
        """Makes the prompts of a whole run now, one for each of ``lengths``; ``take`` then hands them out. A folder
        with too few texts is so refused before anything is measured."""
        for done, length in enumerate(lengths):
            try:
                self._reserved.setdefault(length, deque()).append(self._make(length))
            except DataError as error:
                raise DataError(
                    f"{error}: it gave {done} of the {len(lengths)} prompts of this run. {REMEDY}"
                ) from error

    def take(self, length: int) -> list[int]:
        """Token ids of a prompt of exactly ``length`` tokens whose first tokens no earlier prompt had."""
        reserved = self._reserved.get(length)
        return reserved.popleft() if reserved else self._make(length)

    def _make(self, length: int) -> list[int]:
        for _ in range(ATTEMPTS):
            ids = self._fill(length)
            start = tuple(ids[:16])
            if start not in self._starts:
                self._starts.add(start)
                return ids
        raise DataError(f"{self.data} has too few texts for prompts that differ")

    def _fill(self, length: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < length:
            ids += self.encode(self._next_text(8 * (length - len(ids)) + 400))
        return ids[:length]

    def _next_text(self, characters: int) -> str:
        self._made += 1
        if not self._texts:
            return passage(self.seed * 1_000_003 + self._made, min(SENTENCES, characters // 60 + 2)) + "\n\n"
        text = self._texts[self._made % len(self._texts)]
        last = max(0, len(text) - characters)
        start = text.find(" ", self._rng.randint(0, last)) + 1 if last else 0
        return text[start : start + characters] + "\n\n"


def read_texts(folder: Path) -> Iterator[str]:
    """Natural-language strings found in the files below ``folder``, in the order of their paths."""
    for path in sorted(folder.rglob("*")):
        name = path.name.removesuffix(".gz")
        if path.is_file() and name.endswith((".jsonl", ".txt")):
            yield from islice(_read_file(path, name.endswith(".jsonl")), TEXTS_PER_FILE)


def _read_file(path: Path, json_lines: bool) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="replace", newline="\n") as file:
        if not json_lines:
            yield from _long_enough([file.read()])
            return
        for line in file:
            if line.strip():
                yield from _long_enough(_strings(json.loads(line)))


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    if isinstance(value, dict):
        return [text for key, item in value.items() if key not in SKIPPED_FIELDS for text in _strings(item)]
    return []


def _long_enough(texts: list[str]) -> Iterator[str]:
    yield from (text for text in texts if len(text) >= MIN_CHARACTERS and " " in text)
