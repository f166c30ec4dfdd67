"""Which tokens a speculator can propose: a small head is most of what makes it cheap."""

from __future__ import annotations

import numpy as np
import torch

from paceline.training.states import StateSet

ALTERNATIVES = 0.01  # weight of a token that the target thought of, against one that it wrote


def draft_vocabulary(states: StateSet, size: int, vocab_size: int) -> torch.Tensor:
    """The ``size`` tokens (at most ``vocab_size``, the target's) that are most frequent in the outputs; what the target
    held likely without writing it decides where outputs do not. Ascending ids, int64."""
    weight = np.zeros(vocab_size, dtype=np.float64)
    for text in range(len(states)):
        lesson = states[text]
        weight += np.bincount(lesson.token_ids[lesson.first :], minlength=vocab_size)
        likely = ALTERNATIVES * np.exp(lesson.top_logprobs.astype(np.float64))
        weight += np.bincount(lesson.top_ids.ravel(), weights=likely.ravel(), minlength=vocab_size)
    chosen = np.argsort(-weight, kind="stable")[: min(size, vocab_size)]
    return torch.from_numpy(np.sort(chosen).astype(np.int64))


def draft_indices(tokens: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """For each of the target's ids its index in ``tokens``, -1 where it is not among them: int64 ``[vocab_size]``."""
    indices = torch.full((vocab_size,), -1, dtype=torch.int64)
    indices[tokens] = torch.arange(len(tokens))
    return indices
