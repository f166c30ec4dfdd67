"""Prompts for a trace: texts of its lengths, with shared beginnings where it says so."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paceline.bench.load.lengths import TokenEstimate
from paceline.bench.load.traces import TraceRequest
from paceline.bench.prompts import read_texts
from paceline.bench.text import passage

BLOCK_TOKENS = 512  # of Mooncake's hash ids
MARGIN = 0.9  # of the room for a prompt: its length is an estimate
MIN_TOKENS = 8
HEAD = 1000  # characters of a text that are looked at
LETTERS_SHARE, SPACES_SHARE = 0.74, 0.22  # of English prose; code and tables have fewer and more
_LETTERS = re.compile(r"[A-Za-z]")
SENTENCES = 40  # of a generated text


@dataclass(frozen=True, slots=True)
class Lengths:
    """What is asked of the server for one request of a trace, in tokens. ``clipped``: the trace had more."""

    input_tokens: int
    output_tokens: int
    clipped: bool


def clip(request: TraceRequest, context: int | None) -> Lengths:
    """Lengths that a server of ``context`` tokens can take (None: unknown, nothing is clipped): the answer keeps at
    most half of the context, the prompt what is left."""
    output = max(1, request.output_tokens)
    if context is None:
        return Lengths(max(1, request.input_tokens), output, False)
    output = min(output, context // 2)
    room = max(1, int((context - output) * MARGIN))
    kept = max(1, min(request.input_tokens, room))
    return Lengths(kept, output, kept < request.input_tokens or output < request.output_tokens)


@dataclass(slots=True)
class TraceTexts:
    """Makes the prompts. ``corpus``: texts to cut from; none: generated English. ``seed`` names a replay: another one
    has other texts, so that no cache helps it."""

    estimate: TokenEstimate
    seed: str
    corpus: Sequence[str] = ()
    _blocks: dict[int, str] = field(default_factory=dict)

    def prompt(self, number: int, tokens: int, blocks: Sequence[int] = ()) -> str:
        """A text of about ``tokens`` tokens: the blocks' texts one behind the other, or a text of its own."""
        size = self.estimate.characters_for(max(tokens, MIN_TOKENS))
        if not blocks:
            return self._text(f"request {number}", size)
        text = "".join(map(self._block, blocks))
        if len(text) < size:  # a trace whose blocks are fewer than its tokens
            text += self._text(f"request {number}", size - len(text))
        return text[:size]

    def _block(self, block: int) -> str:
        if block not in self._blocks:
            self._blocks[block] = self._text(f"block {block}", round(BLOCK_TOKENS / self.estimate.per_character))
        return self._blocks[block]

    def _text(self, name: str, size: int) -> str:
        rng = random.Random(f"{self.seed} {name}")
        parts: list[str] = []
        length = 0
        while length < size:
            part = self._piece(rng, size - length)
            parts.append(part)
            length += len(part)
        return "".join(parts)[:size]

    def _piece(self, rng: random.Random, size: int) -> str:
        if not self.corpus:
            return passage(rng.getrandbits(48), SENTENCES) + "\n\n"
        text = self.corpus[rng.randrange(len(self.corpus))]
        start = text.find(" ", rng.randrange(max(1, len(text) - size))) + 1
        return text[start : start + size] + "\n\n"


def read_corpus(data: Path | None) -> list[str]:
    """English prose of a data folder to cut prompts from; none without one. Code and other scripts have other lengths
    in tokens, which would make every length of a trace a guess."""
    return [] if data is None else [text for text in read_texts(data) if is_prose(text)]


def is_prose(text: str) -> bool:
    """Whether its beginning is mostly ASCII letters, with a space here and there."""
    head = text[:HEAD]
    letters, spaces = len(_LETTERS.findall(head)), head.count(" ")
    return letters >= LETTERS_SHARE * len(head) and spaces <= SPACES_SHARE * len(head)
