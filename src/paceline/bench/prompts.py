"""Prompts of an exact number of tokens, each one different, the same for every engine.

Engines get token ids, so that none has a shorter prompt than another; the tokenizer is the model's own.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from paceline.bench.text import passage

Encode = Callable[[str], list[int]]

MIN_CHARACTERS = 200  # shorter texts of a data folder are joined with the next one
SENTENCES = 40
TEXTS_PER_FILE = 200  # enough for any run, and a folder of large files is read in a moment
SKIPPED_FIELDS = frozenset({"tests", "schema", "candidates", "test", "canonical_solution"})


@dataclass(slots=True)
class PromptSource:
    """Hands out prompts. ``encode`` is the model's tokenizer without special tokens.

    Texts come from ``data`` (a folder with JSON lines, gzip allowed, or text files) or, without one, from a grammar.
    """

    encode: Encode
    data: Path | None = None
    seed: int = 0
    _texts: list[str] = field(default_factory=list)
    _rng: random.Random = field(init=False)
    _made: int = 0
    _starts: set[tuple[int, ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        if self.data is not None:
            self._texts = list(read_texts(self.data))
            if not self._texts:
                raise ValueError(f"no text of {MIN_CHARACTERS} characters or more was found in {self.data}")
            self._rng.shuffle(self._texts)

    @property
    def description(self) -> str:
        return f"{len(self._texts)} texts of {self.data}" if self.data else "generated English sentences"

    def take(self, length: int) -> list[int]:
        """Token ids of a prompt of exactly ``length`` tokens whose first tokens no earlier prompt had."""
        for _ in range(1000):
            ids = self._fill(length)
            start = tuple(ids[:16])
            if start not in self._starts:
                self._starts.add(start)
                return ids
        raise ValueError(f"the texts of {self.data} are too few for prompts that differ")

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
