"""Drafters that know the right answer, and use it well or badly."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq

from paceline.engine.sequence import Sequence
from paceline.speculation.draft import Draft

Answers = dict[tuple[str, int], list[int]]


class ScriptedDrafter:
    """Proposes from the known outputs ``answers``; each token is replaced by a wrong one with ``error_rate``."""

    def __init__(self, answers: Answers, length: int = 4, error_rate: float = 0.0, vocab: int = 38) -> None:
        self.answers = answers
        self.length = length
        self.error_rate = error_rate
        self.vocab = vocab
        self.random = random.Random(5)
        self.observed: dict[tuple[str, int], list[int]] = {}

    def propose(self, sequences: Seq[Sequence]) -> list[Draft | None]:
        return [self.draft(sequence) for sequence in sequences]

    def draft(self, sequence: Sequence) -> Draft | None:
        right = self.answers.get(sequence.key, [])[sequence.num_outputs :][: self.length]
        tokens = [self.wrong(token) if self.random.random() < self.error_rate else token for token in right]
        return Draft(tuple(tokens), "scripted") if tokens else None

    def wrong(self, token: int) -> int:
        return (token + 1 + self.random.randrange(self.vocab - 2)) % self.vocab

    def observe(self, sequences: Seq[Sequence], accepted: Seq[Seq[int]]) -> None:
        for sequence, tokens in zip(sequences, accepted, strict=True):
            taken = self.observed.setdefault(sequence.key, [])
            taken += tokens
            assert sequence.output_ids.tolist()[-len(taken) :] == taken


class SometimesDrafter(ScriptedDrafter):
    """Chains of random length, none at all for every third sequence."""

    def draft(self, sequence: Sequence) -> Draft | None:
        self.length = self.random.randrange(7)
        return None if self.random.randrange(3) == 0 else super().draft(sequence)


class TreeDrafter(ScriptedDrafter):
    """Token trees: at each depth the right token and a wrong one, in random order, with a wrong child under the wrong
    one, so that the accepted path is seldom a leading run of the tree."""

    def draft(self, sequence: Sequence) -> Draft | None:
        right = self.answers.get(sequence.key, [])[sequence.num_outputs :][: self.length]
        tokens: list[int] = []
        parents: list[int] = []
        stem = -1
        for token in right:
            nodes = [(token, True), (self.wrong(token), False)]
            if self.random.random() < 0.5:
                nodes.reverse()
            parent = stem
            for value, good in nodes:
                tokens.append(value)
                parents.append(parent)
                if good:
                    stem = len(tokens) - 1
                else:
                    tokens.append(self.wrong(value))
                    parents.append(len(tokens) - 2)
        return Draft(tuple(tokens), "tree", tuple(parents)) if tokens else None


class LeadingTreeDrafter(ScriptedDrafter):
    """Token trees whose first tokens are the right ones; a wrong sibling of the first comes last."""

    def draft(self, sequence: Sequence) -> Draft | None:
        chain = super().draft(sequence)
        if chain is None:
            return None
        tokens = (*chain.token_ids, self.wrong(chain.token_ids[0]))
        return Draft(tokens, "leading", (*range(-1, len(chain) - 1), -1))
