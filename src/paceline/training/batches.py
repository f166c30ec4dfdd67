"""Batches of blocks: texts, and in each of them anchors at which a step might have begun."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paceline.training.states import Lesson, StateSet

LATE_START = 0.25  # of the texts are read from a random place on, as behind a prefix cache


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """``B`` texts of at most ``T`` tokens, ``A`` anchors each, ``P`` positions behind each anchor, ``K`` likeliest
    tokens. ``states[:, i]`` is of token ``i - 1``. ``valid``: the position has a target (it is part of the output).
    Indices are of the draft vocabulary, -1 outside of it."""

    token_ids: Tensor  # int64 [B, T]
    states: Tensor  # float16 [B, T, width]
    anchors: Tensor  # int64 [B, A]
    before: Tensor  # int64 [B, A] indices of the anchors' own tokens
    valid: Tensor  # bool [B, A, P]
    targets: Tensor  # int64 [B, A, P] indices of the text's own tokens
    top: Tensor  # int64 [B, A, P, K] indices of the target's likeliest tokens
    top_probabilities: Tensor  # float32 [B, A, P, K]

    def to(self, device: torch.device) -> BlockBatch:
        return BlockBatch(*(getattr(self, name).to(device) for name in self.__slots__))


def draw_batch(
    states: StateSet,
    chosen: np.ndarray,
    generator: np.random.Generator,
    indices: Tensor,
    *,
    anchors: int,
    positions: int,
    window: int,
    late_start: float = LATE_START,
) -> BlockBatch:
    """Blocks of the texts ``chosen``, with ``anchors`` random anchors each (fewer where a text has fewer). ``indices``:
    see ``draft_indices``."""
    parts = [_block(states[int(text)], generator, anchors, positions, window, late_start) for text in chosen]
    longest = max(len(part.token_ids) for part in parts)
    width, top = states.files.width, states.files.top
    token_ids = np.zeros((len(parts), longest), dtype=np.int64)
    rows = np.zeros((len(parts), longest, width), dtype=np.float16)
    anchor = np.ones((len(parts), anchors), dtype=np.int64)  # where none is left: a place that sees something
    valid = np.zeros((len(parts), anchors, positions), dtype=bool)
    targets = np.zeros((len(parts), anchors, positions), dtype=np.int64)
    top_ids = np.zeros((len(parts), anchors, positions, top), dtype=np.int64)
    probabilities = np.zeros((len(parts), anchors, positions, top), dtype=np.float32)
    for i, part in enumerate(parts):
        token_ids[i, : len(part.token_ids)] = part.token_ids
        rows[i, 1 : len(part.token_ids)] = part.states[:-1]
        places = part.anchors[:, None] + np.arange(1, positions + 1)
        ok = places < len(part.token_ids)
        places = np.minimum(places, len(part.token_ids) - 1)
        count = len(part.anchors)
        anchor[i, :count] = part.anchors
        valid[i, :count] = ok
        targets[i, :count] = part.token_ids[places]
        top_ids[i, :count] = part.top_ids[places - part.first]
        probabilities[i, :count] = np.exp(part.top_logprobs[places - part.first].astype(np.float32))
    return BlockBatch(
        torch.from_numpy(token_ids),
        torch.from_numpy(rows),
        torch.from_numpy(anchor),
        indices[torch.from_numpy(np.take_along_axis(token_ids, anchor, axis=1))],
        torch.from_numpy(valid),
        indices[torch.from_numpy(targets)],
        indices[torch.from_numpy(top_ids)],
        torch.from_numpy(probabilities),
    )


@dataclass(slots=True)
class _Part:
    token_ids: np.ndarray
    states: np.ndarray
    first: int  # of the output
    anchors: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray


def _block(
    lesson: Lesson, generator: np.random.Generator, anchors: int, positions: int, window: int, late_start: float
) -> _Part:
    """A stretch of at most ``2 * window`` tokens of the text, with anchors among its outputs."""
    first, end = lesson.first, len(lesson.token_ids)
    low, high = first - 1, end - 1  # an anchor is a token with an output token behind it
    if high - low > window:  # far anchors would need a longer context than the stretch has
        low = int(generator.integers(low, high - window + 1))
        high = low + window
    count = min(anchors, high - low)
    places = np.sort(generator.choice(np.arange(low, high), size=count, replace=False))
    start = max(0, low - window + 1)
    if generator.random() < late_start and places[0] > start:
        start = int(generator.integers(start, places[0]))
    stop = min(end, int(places[-1]) + positions + 1)
    # The first row's state is unknown (zero): an anchor there has nothing else to see, so it moves on.
    start = min(start, max(0, int(places[0]) - 1))
    skipped = max(0, start - first)
    outputs = slice(skipped, stop - first)
    return _Part(
        lesson.token_ids[start:stop],
        lesson.states[start:stop],
        first - start if start < first else 0,
        places - start,
        lesson.top_ids[outputs],
        lesson.top_logprobs[outputs],
    )
