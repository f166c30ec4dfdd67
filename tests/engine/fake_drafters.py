"""Drafters that know the right answer, and use it well or badly."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq

from paceline.engine.sequence import Sequence
from paceline.speculation.decision import Decision, StepShape
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress

Answers = dict[tuple[str, int], list[int]]


class TakesAll:
    """A controller that verifies whatever its one drafter proposes."""

    def __init__(self, drafter: ScriptedDrafter) -> None:
        self.drafter = drafter
        self.names = (drafter.name,)
        self.layers = drafter.layers
        self.forgotten_adapters: list[str] = []

    def choose(self, sequences: Seq[Sequence], limits: Seq[int], shape: StepShape) -> Decision:
        assert sequences and all(limit > 0 for limit in limits)
        assert shape.sampling >= len(sequences) and shape.other_rows >= 0 < shape.draft_rows
        drafts = self.drafter.propose(sequences, limits)
        return Decision([None if d is None else d.trim(n) for d, n in zip(drafts, limits, strict=True)])

    def observe(self, progress: Seq[Progress], shape: StepShape, rows: int, seconds: float) -> None:
        assert seconds > 0 and rows >= len(progress) and rows >= shape.sampling + shape.other_rows
        self.drafter.observe(progress)

    def forget(self, sequence: Sequence) -> None:
        self.drafter.forget(sequence)

    def forget_adapter(self, adapter: str) -> None:
        self.forgotten_adapters.append(adapter)


class ScriptedDrafter:
    """Proposes from the known outputs ``answers``; each token is replaced by a wrong one with ``error_rate``."""

    name = "scripted"
    cheap = True
    layers = ()

    def __init__(self, answers: Answers, length: int = 4, error_rate: float = 0.0, vocab: int = 38) -> None:
        self.answers = answers
        self.length = length
        self.error_rate = error_rate
        self.vocab = vocab
        self.random = random.Random(5)
        self.observed: dict[tuple[str, int], list[int]] = {}
        self.forgotten: list[tuple[str, int]] = []

    def propose(self, sequences: Seq[Sequence], lengths: Seq[int]) -> list[Draft | None]:
        return [self.draft(sequence) for sequence in sequences]

    def draft(self, sequence: Sequence) -> Draft | None:
        right = self.answers.get(sequence.key, [])[sequence.num_outputs :][: self.length]
        tokens = [self.wrong(token) if self.random.random() < self.error_rate else token for token in right]
        return Draft(tuple(tokens), "scripted") if tokens else None

    def wrong(self, token: int) -> int:
        return (token + 1 + self.random.randrange(self.vocab - 2)) % self.vocab

    def observe(self, progress: Seq[Progress]) -> None:
        for sequence, tokens in ((part.sequence, part.token_ids) for part in progress if part.token_ids):
            taken = self.observed.setdefault(sequence.key, [])
            taken += tokens
            assert sequence.output_ids.tolist()[-len(taken) :] == taken

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence.key)


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
