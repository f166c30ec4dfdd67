"""Which of two speculators is worth more on the same texts: tokens a step, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from paceline.speculation.drafters.turbo_format import SpeculatorConfig, read_speculator
from paceline.training.speculator import Speculator
from paceline.training.states import Lesson, StateSet
from paceline.training.vocabulary import draft_indices

ANCHORS = 64  # of a pass
RESAMPLES = 4000
CONFIDENCE = 0.95  # two-sided: a candidate of the same worth is taken once in 40 times

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gain:
    """``current`` and ``candidate``: tokens a step over all texts. ``low`` and ``high`` bound their difference."""

    current: float
    candidate: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        return self.low > 0


def steps_needed(folder: Path | None, states: StateSet, embedding: torch.Tensor) -> Counts:
    """Of each text, steps in which the outputs behind the first come, every draft of the speculator in ``folder``
    verified whole; None: without drafts. Texts of one output token need none."""
    if folder is None:
        return states.output_counts() - 1
    config, tensors = read_speculator(folder)
    model = Speculator(config, tensors, embedding).eval()
    indices = draft_indices(model.tokens, config.target.vocab_size)
    return np.array([_walk(states[i], accepted(model, states[i], indices)) for i in range(len(states))], dtype=np.int64)


@torch.no_grad()
def accepted(model: Speculator, lesson: Lesson, indices: torch.Tensor) -> Counts:
    """Leading draft tokens that are the text's own, for a draft behind each place ``[n - 1]``; 0 before the outputs.

    What the text says is what the target drew, so this is what verification by comparing accepts, sampled or greedy.
    Given the text's own tokens before, for a draft goes on only where those were right.
    """
    count = len(lesson.token_ids)
    found = np.zeros(count - 1, dtype=np.int64)
    # Nobody knows states of the token before the first, so nothing can be drafted behind it.
    for low in range(max(1, lesson.first), count - 1, ANCHORS):
        places = np.arange(low, min(low + ANCHORS, count - 1))
        found[places] = _accepted_at(model, lesson, places, indices)
    return found


def _accepted_at(model: Speculator, lesson: Lesson, places: Counts, indices: torch.Tensor) -> Counts:
    config: SpeculatorConfig = model.config
    start, end = max(0, int(places[0]) - config.window), int(places[-1]) + 1
    rows = torch.zeros(1, end - start, lesson.states.shape[1], dtype=torch.float16)
    rows[0, 1:] = torch.from_numpy(np.array(lesson.states[start : end - 1]))
    tokens = torch.from_numpy(lesson.token_ids.astype(np.int64))
    behind = torch.from_numpy(places[:, None] + np.arange(1, config.positions + 1))
    valid = behind < len(tokens)
    targets = indices[tokens[behind.clamp(max=len(tokens) - 1)]]
    before = torch.cat([indices[tokens[torch.from_numpy(places)]].unsqueeze(1), targets[:, :-1]], dim=1)
    anchors = torch.from_numpy(places - start).unsqueeze(0)
    logits = model(tokens[start:end].unsqueeze(0), rows, anchors, before.unsqueeze(0)).tokens[0]
    hits = (logits.argmax(dim=-1) == targets) & valid & (targets >= 0)
    counts: Counts = hits.long().cumprod(dim=-1).sum(dim=-1).numpy()
    return counts


def _walk(lesson: Lesson, accepted: Counts) -> int:
    """Steps behind the one that brings the first output, each a draft's accepted tokens and one of the target."""
    place, last, steps = lesson.first, len(lesson.token_ids) - 1, 0
    while place < last:
        place += int(accepted[place]) + 1
        steps += 1
    return steps


def compare(tokens: Counts, current: Counts, candidate: Counts, seed: int = 0) -> Gain:
    """From each text's tokens (behind the first) and the steps that the two need: a paired bootstrap over texts, for
    the tokens of one text depend on each other. Texts without such tokens say nothing and are left out."""
    told = tokens > 0
    tokens, current, candidate = tokens[told], current[told], candidate[told]
    if not len(tokens):
        return Gain(1.0, 1.0, 0.0, 0.0)
    draws = np.random.default_rng(seed).integers(0, len(tokens), (RESAMPLES, len(tokens)))
    sums = tokens[draws].sum(axis=1)
    gains = sums / candidate[draws].sum(axis=1) - sums / current[draws].sum(axis=1)
    low, high = np.quantile(gains, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    total = tokens.sum()
    return Gain(float(total / current.sum()), float(total / candidate.sum()), float(low), float(high))
