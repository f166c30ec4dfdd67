"""Outputs that are one of several texts: what may come next, what must, and where it ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import InvalidRequestError
from paceline.sampling.choices import choice_ids
from paceline.sampling.grammar import ChoiceMatcher
from paceline.sampling.params import SamplingParams
from paceline.sampling.processors import edit
from paceline.sampling.sampler import Sampler, SampleRow
from paceline.sampling.state import SamplingState

V, EOS = 12, (10, 11)
YES, YES_SIR, NO = (1, 2), (1, 2, 3, 4), (5,)

CHOICES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple), min_size=1, max_size=6)


def matcher(*choices: tuple[int, ...], eos: tuple[int, ...] = EOS, after: tuple[int, ...] = ()) -> ChoiceMatcher:
    made = ChoiceMatcher(choices, eos)
    for token in after:
        made.advance(token)
    return made


def allowed(made: ChoiceMatcher, *path: int) -> list[int] | None:
    ids = made.allowed(path)
    return None if ids is None else ids.tolist()


def state_of(choices: tuple, output: tuple[int, ...] = (), **params: object) -> SamplingState:
    wishes = SamplingParams(choice_ids=choices, **params)
    return SamplingState(wishes, prompt_ids=[0], vocab_size=V, output_ids=output, eos_ids=EOS, seed=1)


def test_the_first_tokens_are_those_of_the_choices() -> None:
    assert allowed(matcher(YES, NO)) == [1, 5]


def test_a_complete_choice_may_end_or_become_a_longer_one() -> None:
    made = matcher(YES, YES_SIR, NO)
    assert allowed(made, 1, 2) == [3, *EOS]
    assert not made.ends([1, 2])
    assert made.ends([1, 2, EOS[0]])


def test_without_end_of_sequence_ids_only_the_longer_choice_can_be_told() -> None:
    assert allowed(matcher(YES, YES_SIR, eos=()), 1, 2) == [3]


def test_a_choice_that_nothing_can_follow_ends_the_text() -> None:
    for eos in (EOS, ()):
        made = matcher(YES, NO, eos=eos)
        assert made.ends([5])
        assert not made.ends([1])
        assert allowed(made, 5) == (list(eos) or None)


def test_a_path_that_is_not_allowed_is_not_restricted() -> None:
    made = matcher(YES, NO)
    assert made.allowed([7]) is None
    assert made.allowed([7, 1]) is None
    assert made.allowed([1, 5]) is None
    assert not made.ends([7])


def test_tokens_without_an_alternative_are_forced() -> None:
    made = matcher((1, 2, 3, 4), (1, 2, 5, 6, 7))
    assert made.forced(9) == (1, 2)
    assert made.forced(1) == (1,)
    assert made.forced(9, [1, 2, 5]) == (6, 7)
    assert made.forced(9, [9]) == ()


def test_a_choice_that_may_end_forces_nothing_unless_there_is_no_way_to_end() -> None:
    assert matcher(YES, YES_SIR).forced(9) == YES
    assert matcher(YES, YES_SIR, eos=()).forced(9) == YES_SIR


def test_a_token_that_is_not_allowed_is_not_taken() -> None:
    with pytest.raises(AssertionError, match="not allowed"):
        matcher(YES).advance(7)


@given(CHOICES, st.lists(st.integers(0, V - 1), max_size=6), st.integers(0, 6))
def test_a_path_and_committed_tokens_mean_the_same(choices: list, path: list[int], cut: int) -> None:
    ahead, committed = matcher(*choices), matcher(*choices)
    for token in path[:cut]:
        if token not in (allowed(committed) or []):
            return
        committed.advance(token)
    assert allowed(committed, *path[cut:]) == allowed(ahead, *path)
    assert committed.ends(path[cut:]) == ahead.ends(path)
    assert committed.forced(4, path[cut:]) == ahead.forced(4, path)


@settings(max_examples=60, deadline=None)
@given(CHOICES, st.integers(0, 2**32), st.sampled_from([0.0, 0.7, 5.0]), st.booleans())
def test_every_drawn_text_is_one_of_the_choices(choices: list, seed: int, temperature: float, ignore_eos: bool) -> None:
    params = {"temperature": temperature, "ignore_eos": ignore_eos, "min_tokens": 3}
    state = state_of(tuple(choices), **params)
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (8, V)).astype(np.float32))
    sampler, text = Sampler(V), []
    while not state.ends():
        output = sampler.sample(logits[len(text) : len(text) + 1], [SampleRow(state)])
        assert not output.errors
        text += output.token_ids
        state.extend(output.token_ids)
    assert tuple(token for token in text if token not in EOS) in choices
    assert not set(text[:-1]) & set(EOS)


@settings(max_examples=60, deadline=None)
@given(CHOICES, st.integers(0, 2**32), st.lists(st.integers(0, V - 1), max_size=5))
def test_drafts_change_nothing(choices: list, seed: int, draft: list[int]) -> None:
    """Rows behind drafted tokens are those of a sequence that has emitted them, as far as it can."""
    logits = np.random.default_rng(seed).normal(0, 3, (len(draft) + 1, V)).astype(np.float32)
    drafted, emitted = state_of(tuple(choices)), state_of(tuple(choices))
    for k in range(len(draft) + 1):
        row, expected = logits[k].copy(), logits[k].copy()
        edit(row, drafted, draft[:k])
        edit(expected, emitted)
        assert row.tobytes() == expected.tobytes()
        if k == len(draft) or emitted.ends() or not np.isfinite(expected[draft[k]]):
            break
        emitted.extend([draft[k]])


def test_other_edits_apply_to_what_the_choices_leave() -> None:
    state = state_of((YES, NO), logit_bias={5: 3.0}, bad_words_ids=((1,),))
    row = np.ones(V, np.float32)
    edit(row, state)
    assert row[5] == 4.0
    assert np.isneginf(np.delete(row, 5)).all()


def test_min_tokens_prefers_the_longer_choice_but_cannot_lengthen_one() -> None:
    row = np.ones(V, np.float32)
    edit(row, state_of((YES, YES_SIR), output=YES, min_tokens=4))
    assert np.flatnonzero(np.isfinite(row)).tolist() == [3]
    row = np.ones(V, np.float32)
    edit(row, state_of((NO,), output=NO, min_tokens=4))
    assert np.flatnonzero(np.isfinite(row)).tolist() == list(EOS)


def test_a_mask_over_the_vocabulary_restricts_like_ids() -> None:
    class Even:
        def allowed(self, path: object = ()) -> np.ndarray:
            return np.arange(V) % 2 == 0

    state = state_of((NO,))
    state.grammar = Even()  # type: ignore[assignment]
    row = np.arange(V, dtype=np.float32)
    edit(row, state)
    assert np.flatnonzero(np.isfinite(row)).tolist() == [0, 2, 4, 6, 8, 10]


def test_a_resumed_sequence_stands_where_it_stood() -> None:
    state = state_of((YES, NO), output=(1,))
    assert not state.ends()
    assert state.ends([2])
    assert state.grammar is not None and allowed(state.grammar) == [2]


def test_texts_become_token_sequences_each_once() -> None:
    class Letters:
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            assert not add_special_tokens
            return [ord(letter) for letter in text.strip()]

    assert choice_ids(["ab", "c", "ab "], Letters()) == ((97, 98), (99,))
    with pytest.raises(InvalidRequestError, match="without tokens"):
        choice_ids(["ab", " "], Letters())


def test_choices_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="choice: token id 12"):
        SamplingParams(choice_ids=((1, 12),)).validate(V)
