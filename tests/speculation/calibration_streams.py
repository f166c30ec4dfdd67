"""Streams of drafts with outcomes, made up or replayed from real text, and how well a calibration predicts them."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from paceline.speculation.calibration import Calibration, SequenceRecord, outcomes_of


@dataclass(slots=True)
class Event:
    """One draft of one sequence: what the drafter believed, and what came of it."""

    sequence: int
    group: str
    confidence: tuple[float | None, ...]
    outcomes: list[bool | None]
    adapter: str | None = None


@dataclass
class Reliability:
    """(predicted, happened) pairs: survival of tokens, and acceptance given the ancestors' (for the log-loss)."""

    survival: list[tuple[float, bool]] = field(default_factory=list)
    keys: list[tuple[int, str]] = field(default_factory=list)  # (position, group) of each
    acceptance: list[tuple[float, bool]] = field(default_factory=list)

    def add(self, event: Event, survivals: Sequence[float]) -> None:
        alive, before = True, 1.0
        for i, predicted in enumerate(survivals):
            if i < len(event.outcomes):
                self.acceptance.append((predicted / before, bool(event.outcomes[i])))
                before, alive = predicted, alive and bool(event.outcomes[i])
            elif alive:
                return  # the text ended: nobody knows
            self.survival.append((predicted, alive))
            self.keys.append((i, event.group))

    @property
    def bias(self) -> float:
        """Mean predicted less mean realised survival."""
        return sum(p - y for p, y in self.survival) / len(self.survival)

    def errors(self, key: Callable[[int], object]) -> dict[object, tuple[float, float]]:
        """For each value of ``key(index)``: (bias, share of tokens)."""
        bins: dict[object, list[float]] = defaultdict(list)
        for i, (p, y) in enumerate(self.survival):
            bins[key(i)].append(p - y)
        total = len(self.survival)
        return {k: (sum(diffs) / len(diffs), len(diffs) / total) for k, diffs in bins.items()}

    def by_survival(self) -> dict[object, tuple[float, float]]:
        return self.errors(lambda i: int(min(9, self.survival[i][0] * 10)))

    def by_position(self) -> dict[object, tuple[float, float]]:
        return self.errors(lambda i: self.keys[i][0])

    def by_group(self) -> dict[object, tuple[float, float]]:
        return self.errors(lambda i: self.keys[i][1])

    @property
    def log_loss(self) -> float:
        """Of acceptance given the ancestors', in nats a token."""
        return -sum(math.log(min(max(p if y else 1 - p, 1e-4), 1)) for p, y in self.acceptance) / len(self.acceptance)


def mean_error(bins: dict[object, tuple[float, float]]) -> float:
    """Absolute biases, weighted by how many tokens they are of."""
    return sum(abs(bias) * share for bias, share in bins.values())


def replay(
    events: Iterable[Event], calibration: Calibration | None = None, skip: int = 0
) -> tuple[Reliability, Reliability]:
    """Runs a stream through a calibration as an engine does: predict, then learn. Returns reliability of what was
    predicted, and of the raw confidences, both without the first ``skip`` drafts."""
    calibration = calibration or Calibration()
    records: dict[int, SequenceRecord] = defaultdict(SequenceRecord)
    calibrated, raw = Reliability(), Reliability()
    for number, event in enumerate(events):
        record = records[event.sequence]
        predicted = calibration.survivals("d", event.adapter, record, event.confidence)
        if number >= skip:
            calibrated.add(event, predicted)
            raw.add(event, list(_products(event.confidence)))
        calibration.observe("d", event.adapter, record, event.confidence, predicted, event.outcomes)
    return calibrated, raw


def _products(confidence: Sequence[float | None]) -> Iterator[float]:
    product = 1.0
    for c in confidence:
        product *= 0.5 if c is None else min(max(c, 1e-3), 1 - 1e-3)
        yield product


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def made_up(
    seed: int,
    num_sequences: int = 60,
    num_drafts: int = 60,
    length: int = 6,
    spread: float = 0.7,
    truth: Callable[[float, int], float] = lambda logit, position: 0.8 * logit - 0.7 + 0.15 * position,
    adapter: str | None = None,
    named: bool = True,
) -> list[Event]:
    """Sequences that differ (log-odds of each shifted by a normal number of deviation ``spread``), some at a time, with
    confidences of a drafter that is wrong in a systematic way. ``named``: the drafter gives its confidence."""
    rng, events = random.Random(seed), []
    shifts = [rng.gauss(0, spread) for _ in range(num_sequences)]
    for start in range(0, num_sequences, 6):
        for _ in range(num_drafts):
            for sequence in range(start, min(start + 6, num_sequences)):
                confidence = tuple(rng.betavariate(1.6, 0.9) for _ in range(length))
                outcomes: list[bool | None] = []
                for position, c in enumerate(confidence):
                    c = min(max(c, 1e-3), 1 - 1e-3)
                    p = sigmoid(truth(math.log(c / (1 - c)), position) + shifts[sequence])
                    outcomes.append(rng.random() < p)
                    if not outcomes[-1]:
                        break
                shown = confidence if named else (None,) * length
                events.append(Event(1000 * seed + sequence, "made up", shown, outcomes, adapter))
    return events


class LookupDrafter:
    """Continues the longest earlier occurrence of the text's tail, token by token along the most frequent branch. With
    ``smoothed`` the confidence takes the match's length into account, otherwise it is the plain share of the branch
    (1.0 for a single occurrence), a poor and overconfident guess."""

    def __init__(self, prompt: Sequence[int], smoothed: bool, depth: int = 10) -> None:
        self._text: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = defaultdict(list)
        self._smoothed, self._depth = smoothed, depth
        self.extend(prompt)

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self._text.append(token)
            end = len(self._text)
            for length in range(1, min(self._depth, end) + 1):
                self._ends[tuple(self._text[end - length :])].append(end)

    def propose(self, most: int) -> tuple[list[int], list[float]]:
        text, here = self._text, len(self._text)
        for match in range(min(self._depth, here - 1), 0, -1):
            ends = [e for e in self._ends[tuple(text[here - match :])] if e < here][-32:]
            if ends and (match > 1 or len(ends) > 1):
                break
        else:
            return [], []
        tokens: list[int] = []
        confidence: list[float] = []
        while len(tokens) < most:
            step = len(tokens)
            branches: dict[int, int] = defaultdict(int)
            for e in ends:
                if e + step < here:
                    branches[text[e + step]] += 1
            if not branches:
                break
            best = max(branches, key=branches.__getitem__)
            seen = sum(branches.values()) + (3.0 / (match + step) if self._smoothed else 0.0)
            tokens.append(best)
            confidence.append(branches[best] / seen)
            ends = [e for e in ends if e + step < here and text[e + step] == best]
        return tokens, confidence


def from_texts(
    texts: Sequence[tuple[str, Sequence[int], Sequence[int]]], smoothed: bool, length: int = 8, together: int = 8
) -> Iterator[Event]:
    """Events of decoding (group, prompt, output) texts, some at a time, with every draft verified."""
    for start in range(0, len(texts), together):
        running = dict.fromkeys(range(start, min(start + together, len(texts))), 0)  # tokens that are out
        drafters = {i: LookupDrafter(texts[i][1], smoothed) for i in running}
        while running:
            for i in list(running):
                group, _, output = texts[i]
                tokens, confidence = drafters[i].propose(length)
                outcomes = outcomes_of(tokens, None, output[running[i] :])
                if tokens:
                    yield Event(i, group, tuple(confidence), outcomes)
                taken = sum(bool(o) for o in outcomes) + 1
                drafters[i].extend(output[running[i] : running[i] + taken])
                running[i] += taken
                if running[i] >= len(output):
                    del running[i]
