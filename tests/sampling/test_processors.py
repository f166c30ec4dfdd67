"""Penalties, bias and masks, against the plain reference and against transformers where the meanings coincide."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sampling_reference import processed_logits, row

from paceline.sampling.params import SamplingParams
from paceline.sampling.processors import edit
from paceline.sampling.sampler import SampleRow
from paceline.sampling.state import SamplingState, TokenCounts

V = 40
EOS = (3, 4)
ALL = SamplingParams(
    temperature=0.8,
    presence_penalty=0.3,
    frequency_penalty=-0.7,
    repetition_penalty=1.3,
    logit_bias={5: 2.0, 9: -100.0},
    bad_words_ids=((7,), (1, 2), (1, 2, 6), (8, 8)),
    min_tokens=6,
    stop_token_ids=(11,),
)
CASES = {
    "repetition": SamplingParams(repetition_penalty=1.7),
    "repetition that encourages": SamplingParams(repetition_penalty=0.5),
    "frequency": SamplingParams(frequency_penalty=0.9),
    "presence": SamplingParams(presence_penalty=-1.1),
    "bias": SamplingParams(logit_bias={0: 3.5, 39: -7.0}),
    "bad words": SamplingParams(bad_words_ids=((7,), (1, 2), (1, 2, 6), (8, 8))),
    "min_tokens": SamplingParams(min_tokens=6, stop_token_ids=(11,)),
    "min_tokens without eos": SamplingParams(min_tokens=6, stop_token_ids=(11,), ignore_eos=True),
    "all": ALL,
}


def edited(logits: np.ndarray, sample_row: SampleRow) -> np.ndarray:
    result = logits.copy()
    if sample_row.state.edited:
        edit(result, sample_row.state, sample_row.draft)
    return result


def random_logits(seed: int, size: int = V) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("output", [[], [1], [1, 2, 1], [8], [1, 2, 1, 2], [5, 1, 2, 8, 8, 30, 30, 30, 30]])
def test_edit_equals_the_reference(name: str, output: list[int]) -> None:
    prompt = [0, 1, 1, 2, 20]
    logits = random_logits(len(output))
    result = edited(logits, row(CASES[name], V, prompt=prompt, output=output, eos=EOS))
    expected = processed_logits(logits.tolist(), CASES[name], prompt, output, EOS)
    np.testing.assert_allclose(result, np.array(expected, np.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_draft_counts_as_emitted(name: str) -> None:
    prompt, output, draft = [0, 20], [30, 1], [2, 30, 35, 35, 8, 1, 2]
    for k in range(len(draft) + 1):
        logits = random_logits(k)
        ahead = edited(logits, row(CASES[name], V, prompt=prompt, output=output, draft=draft[:k], eos=EOS))
        emitted = edited(logits, row(CASES[name], V, prompt=prompt, output=output + draft[:k], eos=EOS))
        assert ahead.tobytes() == emitted.tobytes()


def test_a_draft_leaves_no_trace_in_the_state() -> None:
    drafted = row(ALL, V, prompt=[0], output=[1], eos=EOS)
    logits = random_logits(0)
    before = edited(logits, drafted)
    edited(logits, SampleRow(drafted.state, (1, 2, 9, 9)))
    assert edited(logits, drafted).tobytes() == before.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_a_state_extended_token_by_token_equals_one_made_at_once(name: str) -> None:
    output = np.random.default_rng(1).integers(0, V, 300).tolist()
    state = SamplingState(CASES[name], prompt_ids=[1, 2], vocab_size=V, eos_ids=EOS, seed=0)
    for token in output:
        state.extend([token])
    at_once = row(CASES[name], V, prompt=[1, 2], output=output, eos=EOS)
    logits = random_logits(2)
    assert edited(logits, SampleRow(state)).tobytes() == edited(logits, at_once).tobytes()
    assert state.num_tokens == at_once.state.num_tokens == 302


def test_counts_grow_beyond_their_first_capacity() -> None:
    counts = TokenCounts(range(10))
    for token in [*range(5, 500), 499]:
        counts.add(token)
    tokens, numbers = counts.read()
    assert tokens.tolist() == list(range(500))
    assert numbers.tolist() == [0.0] * 5 + [1.0] * 494 + [2.0]


def test_bad_words_look_at_the_output_only() -> None:
    params = SamplingParams(bad_words_ids=((1, 2),))
    assert edited(random_logits(0), row(params, V, prompt=[5, 1]))[2] > -math.inf
    assert edited(random_logits(0), row(params, V, prompt=[5], output=[1]))[2] == -math.inf


def test_ids_outside_the_vocabulary_have_no_effect() -> None:
    params = SamplingParams(
        logit_bias={V: 5.0}, bad_words_ids=((V + 3,), (1, V)), min_tokens=3, stop_token_ids=(V,), repetition_penalty=2.0
    )
    logits = random_logits(0)
    result = edited(logits, row(params, V, prompt=[V + 1], output=[], eos=(V + 7,)))
    assert result.tobytes() == logits.tobytes()


def test_masked_logits_stay_masked_under_penalties() -> None:
    logits = np.full(V, -np.inf, np.float32)
    assert np.isneginf(edited(logits, row(ALL, V, prompt=range(V), output=[1, 2]))).all()


class TestAgainstTransformers:
    """Prompt and output as one ``input_ids``, as its processors see them."""

    prompt, output = [0, 1, 1, 2, 20], [5, 1, 2, 8, 30, 30, 8]

    def compare(self, params: SamplingParams, processor: object, input_ids: list[int]) -> None:
        logits = random_logits(3)
        expected = processor(torch.tensor([input_ids]), torch.from_numpy(logits)[None].clone())[0]  # type: ignore[operator]
        result = edited(logits, row(params, V, prompt=self.prompt, output=self.output, eos=EOS))
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-6)

    def test_repetition_penalty(self) -> None:
        from transformers import RepetitionPenaltyLogitsProcessor

        processor = RepetitionPenaltyLogitsProcessor(1.4)
        self.compare(SamplingParams(repetition_penalty=1.4), processor, self.prompt + self.output)

    def test_bad_words(self) -> None:
        from transformers import NoBadWordsLogitsProcessor

        words = [[7], [8, 9], [30, 8, 12], [30, 30, 8, 13], [2, 14]]
        params = SamplingParams(bad_words_ids=tuple(map(tuple, words)))
        self.compare(params, NoBadWordsLogitsProcessor(words, eos_token_id=[99]), self.output)

    def test_logit_bias(self) -> None:
        from transformers import SequenceBiasLogitsProcessor

        processor = SequenceBiasLogitsProcessor([[[6], 2.5], [[0], -4.0]])
        self.compare(SamplingParams(logit_bias={6: 2.5, 0: -4.0}), processor, self.prompt + self.output)

    @pytest.mark.parametrize("minimum", [7, 8])
    def test_min_tokens(self, minimum: int) -> None:
        from transformers import MinNewTokensLengthLogitsProcessor

        processor = MinNewTokensLengthLogitsProcessor(len(self.prompt), minimum, list(EOS))
        self.compare(SamplingParams(min_tokens=minimum), processor, self.prompt + self.output)
