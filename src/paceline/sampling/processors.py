"""Penalties, bias and masks: what changes logits before the temperature.

Each works in place on one float32 row ``[V]`` and touches only the tokens it concerns, so its cost is that of those
tokens, not of the vocabulary. ``edit`` applies what a sequence uses, in the documented order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.sampling.grammar import Allowed
from paceline.sampling.state import Counts, Ids, SamplingState

Row = npt.NDArray[np.float32]


def penalize(
    row: Row, tokens: Ids, counts: Counts, repetition: float = 1.0, frequency: float = 0.0, presence: float = 0.0
) -> None:
    """Repetition, frequency and presence penalties, as vLLM defines them.

    ``tokens`` are the distinct tokens of prompt and output, ``counts`` their occurrences in the output. Repetition
    concerns them all: a positive logit is divided by the penalty, a negative one multiplied. Frequency (times the
    count) and presence (once) are subtracted from the logits of output tokens.
    """
    values = row[tokens]
    if repetition != 1.0:
        penalty = np.float32(repetition)
        values = np.where(values > 0, values / penalty, values * penalty)
    if frequency != 0.0:
        values -= np.float32(frequency) * counts
    if presence != 0.0:
        values -= np.float32(presence) * (counts > 0)
    row[tokens] = values


def add_bias(row: Row, tokens: Ids, values: npt.NDArray[np.float32]) -> None:
    """Adds ``values`` to the logits of ``tokens`` (distinct)."""
    row[tokens] += values


def mask(row: Row, tokens: Ids | Sequence[int]) -> None:
    """Makes ``tokens`` impossible."""
    row[tokens] = -np.inf


def restrict(row: Row, allowed: Allowed) -> None:
    """Makes all other tokens impossible."""
    kept = row[allowed]
    row.fill(-np.inf)
    row[allowed] = kept


def finished_phrases(phrases: Sequence[Sequence[int]], output_tail: Sequence[int]) -> list[int]:
    """Last tokens of those ``phrases`` (two tokens or more) whose other tokens end ``output_tail``."""
    tail = tuple(output_tail)
    return [phrase[-1] for phrase in phrases if tail[-len(phrase) + 1 :] == tuple(phrase[:-1])]


def edit(row: Row, state: SamplingState, draft: Sequence[int] = ()) -> None:
    """Applies the sequence's penalties, bias and masks in place, as if ``draft`` had been emitted."""
    params = state.params
    if state.counts is not None:
        tokens, counts = state.counts.read(draft)
        penalize(row, tokens, counts, params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
    if len(state.bias_ids):
        add_bias(row, state.bias_ids, state.bias_values)
    if len(state.banned):
        mask(row, state.banned)
    if state.tail_length and (ends := finished_phrases(state.phrases, (*state.tail, *draft))):
        mask(row, ends)
    if state.num_outputs + len(draft) < params.min_tokens and not state.ends(draft):
        mask(row, state.stop_ids)
    if state.grammar is not None and (allowed := state.grammar.allowed(draft)) is not None:
        restrict(row, allowed)
