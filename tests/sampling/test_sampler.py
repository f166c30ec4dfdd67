"""The sampler: greedy, seeded draws, logprobs, and rows that cannot be sampled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sampling_reference import choose, near_boundary, probabilities, processed_logits, row

from paceline.sampling.params import SamplingParams
from paceline.sampling.random import uniform
from paceline.sampling.sampler import NOT_FINITE, NOTHING_LEFT, Sampler, SampleRow, _argmax_on_device
from paceline.sampling.state import SamplingState

V = 50
GREEDY = SamplingParams(temperature=0.0)


def random_logits(rows: int, size: int = V, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3


class TestGreedy:
    @pytest.mark.parametrize("size", [1, 7, 64, 1000, 49_157])
    def test_ties_go_to_the_lowest_id(self, size: int) -> None:
        generator = torch.Generator().manual_seed(size)
        logits = torch.randint(0, 3, (20, size), generator=generator).float()  # the maximum stands in many places
        expected = [values.index(max(values)) for values in logits.tolist()]
        plain = [row(GREEDY, size) for _ in range(20)]
        biased = [row(SamplingParams(temperature=0.0, logit_bias={size: 1.0, 0: 0.0}), size) for _ in range(20)]
        assert Sampler(size).sample(logits, plain).token_ids == expected
        assert Sampler(size).sample(logits, [*plain[:10], *biased[10:]]).token_ids == expected

    @pytest.mark.parametrize("where", [0, 63, 64, 48_000, 49_151])
    def test_the_first_of_two_equal_maxima_wherever_it_stands(self, where: int) -> None:
        logits = torch.zeros(2, 49_152)
        logits[:, where] = logits[0, 49_151] = 1.0
        assert Sampler(49_152).sample(logits, [row(GREEDY, 49_152)] * 2).token_ids == [where, where]

    def test_what_the_backend_found_is_taken_where_it_found_it(self) -> None:
        logits = random_logits(3)
        told = np.array([4, 5, 6], dtype=np.int32)  # not the argmax: to see where the tokens come from
        argmax = logits.argmax(1).tolist()
        rows = [row(GREEDY, V)] * 3
        assert Sampler(V).sample(logits, rows, told).token_ids == [4, 5, 6]
        told[1] = -1
        assert Sampler(V).sample(logits, rows, told).token_ids == argmax
        rows[2] = row(SamplingParams(temperature=0.0, bad_words_ids=((argmax[2],),)), V)
        mixed = Sampler(V).sample(logits, rows, told).token_ids
        assert mixed[:2] == [4, argmax[1]] and mixed[2] not in (6, argmax[2])

    def test_truncations_and_seeds_do_not_matter(self) -> None:
        logits = random_logits(4)
        params = SamplingParams(temperature=0.0, top_p=0.1, top_k=3, min_p=0.5, typical_p=0.2)
        rows = [row(params, V, seed=s) for s in range(4)]
        assert Sampler(V).sample(logits, rows).token_ids == logits.argmax(1).tolist()

    def test_masks_and_penalties_do(self) -> None:
        logits = torch.zeros(2, V)
        logits[:, 7], logits[:, 9] = 5.0, 4.0
        banned = row(SamplingParams(temperature=0.0, bad_words_ids=((7,),)), V)
        penalized = row(SamplingParams(temperature=0.0, presence_penalty=1.5), V, output=[7])
        assert Sampler(V).sample(logits, [banned, penalized]).token_ids == [9, 9]

    def test_a_strided_view_gives_the_same(self) -> None:
        wide = random_logits(6, 2 * V)
        rows = [row(GREEDY, V)] * 3
        assert Sampler(V).sample(wide[::2, 1::2], rows).token_ids == wide[::2, 1::2].argmax(1).tolist()

    def test_ties_go_to_the_lowest_id_on_any_device(self) -> None:
        logits = torch.randint(0, 3, (20, 1000), generator=torch.Generator().manual_seed(0)).float()
        tops, token_ids = _argmax_on_device(logits)
        assert token_ids == [values.index(max(values)) for values in logits.tolist()]
        assert tops.tolist() == [2.0] * 20
        logits[3, 5] = math.nan
        assert np.isnan(_argmax_on_device(logits)[0]).tolist() == [i == 3 for i in range(20)]

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_gpu_gives_the_same(self) -> None:
        logits = torch.randint(0, 3, (20, 1000), generator=torch.Generator().manual_seed(0)).float()
        logits[3, 5] = math.nan
        for params in (GREEDY, SamplingParams(top_p=0.8)):
            rows = [row(params, 1000)] * 20
            assert Sampler(1000).sample(logits.cuda(), rows) == Sampler(1000).sample(logits, rows)


PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=0.6, top_p=0.8),
    SamplingParams(temperature=1.4, top_k=10, min_p=0.02),
    SamplingParams(typical_p=0.7, frequency_penalty=0.5, repetition_penalty=1.2),
    SamplingParams(top_p=0.9, logit_bias={3: 4.0}, bad_words_ids=((1,), (2, 5)), presence_penalty=0.4),
    SamplingParams(min_tokens=9, stop_token_ids=(8,), top_k=20),
]


@pytest.mark.parametrize("params", PARAMS, ids=range(len(PARAMS)))
def test_the_token_is_the_reference_cdf_at_the_noise_of_its_position(params: SamplingParams) -> None:
    prompt, output, draft, eos = [4, 5, 6], [2, 5, 2], [9, 2], [3]
    logits = random_logits(40)
    rows = [
        row(params, V, prompt=prompt, output=output, draft=draft[: i % 3], eos=eos, seed=i // 5, index=i % 5)
        for i in range(40)
    ]
    tokens = Sampler(V).sample(logits, rows).token_ids
    compared = 0
    for i, token in enumerate(tokens):
        emitted = output + draft[: i % 3]
        p = probabilities(processed_logits(logits[i].tolist(), params, prompt, emitted, eos), params)
        noise = uniform(i // 5, i % 5, len(prompt) + len(emitted))
        if not near_boundary(p, noise):
            assert token == choose(p, noise)
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("params", [*PARAMS, GREEDY], ids=range(len(PARAMS) + 1))
def test_the_distribution_is_the_reference_s(params: SamplingParams) -> None:
    sample_row = row(params, V, prompt=[4], output=[2, 5, 2], draft=[9, 2], eos=[3])
    raw = random_logits(1)[0].numpy()
    expected = probabilities(processed_logits(raw.tolist(), params, [4], [2, 5, 2, 9, 2], [3]), params)
    ids, p = Sampler(V).distribution(raw, sample_row)
    result = np.zeros(V)
    result[ids] = p
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_sequences_of_one_request_have_different_streams() -> None:
    logits = torch.zeros(8, 10_000)
    tokens = Sampler(10_000).sample(logits, [row(SamplingParams(), 10_000, seed=5, index=i) for i in range(8)])
    assert len(set(tokens.token_ids)) == 8


def test_the_noise_moves_on_with_the_output() -> None:
    state = SamplingState(SamplingParams(seed=5), prompt_ids=[1], vocab_size=10_000)
    kept_row, sampler, tokens = SampleRow(state), Sampler(10_000), []
    for _ in range(8):
        tokens += sampler.sample(torch.zeros(1, 10_000), [kept_row]).token_ids
        state.extend(tokens[-1:])
    ahead = [SampleRow(SamplingState(state.params, prompt_ids=[1], vocab_size=10_000), (0,) * k) for k in range(8)]
    assert sampler.sample(torch.zeros(8, 10_000), ahead).token_ids == tokens
    assert len(set(tokens)) == 8


def test_logits_are_not_changed() -> None:
    logits = random_logits(len(PARAMS))
    before = logits.clone()
    Sampler(V).sample(logits, [row(params, V, output=[1, 2]) for params in PARAMS])
    assert torch.equal(logits, before)


class TestRowsThatCannotBeSampled:
    @pytest.mark.parametrize("params", [GREEDY, *PARAMS], ids=range(len(PARAMS) + 1))
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("where", [0, 20, 49])
    def test_nan_and_infinite_logits_are_an_error_of_their_row_only(
        self, params: SamplingParams, value: float, where: int
    ) -> None:
        logits = random_logits(3)
        rows = [row(params, V, output=[0, 20, 49], seed=i) for i in range(3)]
        good = Sampler(V).sample(logits, rows).token_ids
        logits[1, where] = value
        output = Sampler(V).sample(logits, rows)
        assert output.errors == {1: NOT_FINITE}
        assert output.token_ids == [good[0], -1, good[2]]

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_masks_that_leave_nothing_are_named(self, temperature: float) -> None:
        words = tuple((i,) for i in range(V) if i != 3)
        params = SamplingParams(temperature=temperature, bad_words_ids=words, min_tokens=2)
        rows = [row(params, V, eos=[3], output=output) for output in ([], [3], [3, 3])]
        output = Sampler(V).sample(random_logits(3), rows)
        assert output.errors == {0: NOTHING_LEFT, 1: NOTHING_LEFT}
        assert output.token_ids == [-1, -1, 3]

    def test_a_fully_masked_row_of_the_model_is_an_error(self) -> None:
        for params in (GREEDY, SamplingParams(), SamplingParams(top_k=3), SamplingParams(top_p=0.5)):
            output = Sampler(V).sample(torch.full((1, V), -math.inf), [row(params, V)])
            assert output.errors == {0: NOTHING_LEFT}

    def test_a_row_with_one_token_left_gives_it(self) -> None:
        logits = torch.full((1, V), -math.inf)
        logits[0, 31] = -3e38
        for params in (GREEDY, *PARAMS):
            assert Sampler(V).sample(logits, [row(params, V)]).token_ids == [31]

    def test_an_error_row_has_no_logprobs(self) -> None:
        logits = random_logits(2)
        logits[0, 5] = math.nan
        output = Sampler(V).sample(logits, [row(SamplingParams(logprobs=2), V)] * 2)
        assert output.logprobs is not None
        assert output.logprobs[0] is None
        assert output.logprobs[1] is not None


class TestLogprobs:
    def test_they_describe_the_raw_distribution(self) -> None:
        logits = random_logits(6)
        params = SamplingParams(temperature=0.0, logprobs=4, bad_words_ids=((int(logits[0].argmax()),),))
        output = Sampler(V).sample(logits, [row(params, V, seed=i) for i in range(6)])
        assert output.logprobs is not None
        expected = torch.log_softmax(logits.double(), 1)
        for i, entry in enumerate(output.logprobs):
            assert entry is not None
            assert entry.token_id == output.token_ids[i]
            assert entry.logprob == pytest.approx(expected[i, entry.token_id].item(), abs=1e-5)
            assert entry.rank == 1 + int((logits[i] > logits[i, entry.token_id]).sum())
            assert entry.top_ids == logits[i].argsort(descending=True)[:4].tolist()
            assert entry.top_logprobs == pytest.approx(expected[i, entry.top_ids].tolist(), abs=1e-5)
        assert output.logprobs[0].rank == 2

    def test_only_for_rows_that_ask(self) -> None:
        rows = [row(GREEDY, V), row(SamplingParams(temperature=0.0, logprobs=0), V), row(SamplingParams(), V)]
        output = Sampler(V).sample(random_logits(3), rows)
        assert output.logprobs is not None
        assert [entry is None for entry in output.logprobs] == [True, False, True]
        assert output.logprobs[1].top_ids == []
        assert Sampler(V).sample(random_logits(1), rows[:1]).logprobs is None

    def test_equal_logits_rank_by_id(self) -> None:
        logits = torch.zeros(3, V)
        logits[:, 40] = 1.0
        entries = Sampler(V).prompt_logprobs(logits, [0, 7, 40], 3)
        assert [entry.rank for entry in entries] == [2, 9, 1]
        assert entries[0].top_ids == [40, 0, 1]

    def test_prompt_tokens(self) -> None:
        logits = random_logits(5)
        ids = [3, 1, 4, 1, 5]
        entries = Sampler(V).prompt_logprobs(logits, ids, 2)
        expected = torch.log_softmax(logits.double(), 1)
        for i, token in enumerate(ids):
            assert entries[i].token_id == token
            assert entries[i].logprob == pytest.approx(expected[i, token].item(), abs=1e-5)
            assert entries[i].top_ids == logits[i].topk(2).indices.tolist()

    def test_a_prompt_row_without_a_distribution_is_none(self) -> None:
        logits = random_logits(3)
        logits[1, 9] = math.nan
        assert [entry is None for entry in Sampler(V).prompt_logprobs(logits, [1, 2, 3], 1)] == [False, True, False]

    def test_a_masked_token_has_probability_zero(self) -> None:
        logits = random_logits(1)
        logits[0, 9] = -math.inf
        entry = Sampler(V).prompt_logprobs(logits, [9], V)[0]
        assert entry.logprob == -math.inf
        assert entry.rank == V
        assert len(entry.top_ids) == V - 1
