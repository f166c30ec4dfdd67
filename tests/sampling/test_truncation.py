"""top_k, top_p, min_p, typical_p, temperature and the draw."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sampling_reference import choose, near_boundary, probabilities

from paceline.sampling.params import SamplingParams
from paceline.sampling.truncation import Truncator, descending, inverse_cdf, largest, shortest_head

COMBINATIONS = [
    SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p)
    for temperature, top_k, top_p, min_p, typical_p in itertools.product(
        (0.3, 1.0, 2.5), (0, 1, 7, 60), (1.0, 0.85, 0.2), (0.0, 0.04), (1.0, 0.8)
    )
]


def label(params: SamplingParams) -> str:
    return f"T{params.temperature}-k{params.top_k}-p{params.top_p}-m{params.min_p}-t{params.typical_p}"


def random_row(seed: int, size: int, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def support(row: np.ndarray, params: SamplingParams) -> list[int]:
    ids = Truncator(len(row)).support(row, row.max(), params)
    return list(range(len(row))) if ids is None else ids.tolist()


@pytest.mark.parametrize("params", COMBINATIONS, ids=label)
def test_the_draw_equals_the_reference(params: SamplingParams) -> None:
    for size in (1, 5, 64, 200, 333):
        row = random_row(size, size)
        p = probabilities(row.tolist(), params)
        truncator = Truncator(size)
        boundaries = np.cumsum(p)
        for uniform in [0.0, 1 - 2**-53, *(boundaries - 2e-5), *(boundaries + 2e-5), *np.linspace(0.01, 0.99, 20)]:
            if 0 <= uniform < 1 and not near_boundary(p, uniform):
                assert truncator.draw(row, row.max(), params, float(uniform)) == choose(p, uniform)


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("top_k", [0, 50, 3000])
def test_candidates_on_a_large_vocabulary_lose_no_token(spread: float, top_p: float, top_k: int) -> None:
    """A full sort of all tokens, in float64, keeps the same ones; the last may differ by rounding."""
    row = random_row(1, 20_011, spread)
    order = np.lexsort((np.arange(len(row)), -row))
    order = order[: top_k or None]
    weights = np.exp(row[order].astype(np.float64) - row.max())
    before = np.concatenate(([0.0], np.cumsum(weights / weights.sum())[:-1]))
    kept = set(support(row, SamplingParams(top_k=top_k, top_p=top_p)))
    assert set(order[before < top_p - 1e-5].tolist()) <= kept <= set(order[before < top_p + 1e-5].tolist())


@pytest.mark.parametrize("count", [1, 2, 50, 100, 200, 5000, 20_010, 20_011, 30_000])
@pytest.mark.parametrize("size", [100, 20_011, 20_032])
def test_largest_is_the_head_of_a_full_sort(count: int, size: int) -> None:
    row = np.round(random_row(2, size), 1)  # many ties
    row[::3] = -np.inf
    expected = np.lexsort((np.arange(size), -row))[: min(count, int(np.isfinite(row).sum()))]
    assert largest(row, count).tolist() == expected.tolist()


def test_equal_logits_are_ordered_by_id() -> None:
    row = np.array([1, 5, 5, 2, 5, 0, -0.0, 0], np.float32)
    assert descending(row).tolist() == [1, 2, 4, 3, 0, 5, 6, 7]
    assert support(row, SamplingParams(top_k=2)) == [1, 2]
    assert support(row, SamplingParams(top_k=1)) == [1]
    assert support(row, SamplingParams(top_p=0.3)) == [1]
    assert support(row, SamplingParams(min_p=1.0)) == [1, 2, 4]


@settings(max_examples=300, deadline=None)
@given(
    row=hnp.arrays(
        np.float32,
        st.integers(1, 300),
        elements=st.one_of(
            st.floats(-30, 30, width=32),
            st.sampled_from([0.0, -0.0, 1.0, -np.inf, 3e38, -3e38, 1e-45, float(np.finfo(np.float32).min)]),
        ),
    ),
    temperature=st.sampled_from([1e-40, 1e-9, 0.01, 0.7, 1.0, 100.0]),
    top_k=st.sampled_from([-1, 0, 1, 2, 5, 299, 300, 10**9]),
    top_p=st.sampled_from([1e-300, 1e-6, 0.5, 0.9, 1 - 1e-16, 1.0]),
    min_p=st.sampled_from([0.0, 1e-300, 1e-6, 0.3, 1.0]),
    typical_p=st.sampled_from([1e-300, 1e-6, 0.5, 1 - 1e-16, 1.0]),
    uniform=st.sampled_from([0.0, 1e-300, 0.3, 0.5, 0.9, 1 - 2**-53]),
)
@example(np.zeros(300, np.float32), 1.0, 0, 0.5, 0.0, 0.5, 0.5)
@example(np.array([3e38, -3e38], np.float32), 1e-40, 0, 0.5, 0.3, 0.5, 0.5)
def test_odd_rows_and_parameters_give_a_possible_token(
    row: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float, typical_p: float, uniform: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p)
    top = row.max()
    if not np.isfinite(top):
        return
    with np.errstate(over="ignore", invalid="ignore"):
        token = Truncator(len(row)).draw(row, top, params, uniform)
        kept = support(row, params)
    assert 0 <= token < len(row)
    assert row[token] > -np.inf
    assert token in kept
    assert 1 <= len(kept) <= (top_k if top_k > 0 else len(row))
    if temperature <= 1e-9 and np.count_nonzero(row >= top - np.float32(1e-6)) == 1:
        assert row[token] == top
    if top_k == 1:
        assert token == int(row.argmax())


def test_the_inverse_cdf_never_gives_a_token_without_weight() -> None:
    weights = np.array([0, 1, 0, 0, 1e-30, 0], np.float32)
    for uniform in (0.0, 0.5, 1 - 2**-53):
        assert inverse_cdf(weights, uniform) in (1, 4)
    assert inverse_cdf(np.array([0, 0, 3], np.float32), 0.0) == 2


def test_without_truncation_tail_tokens_of_the_last_block_are_reached() -> None:
    for size in (1, 127, 128, 129, 1000):
        row = np.zeros(size, np.float32)
        truncator = Truncator(size)
        assert truncator.draw(row, row.max(), SamplingParams(), 0.0) == 0
        assert truncator.draw(row, row.max(), SamplingParams(), 1 - 2**-53) == size - 1
        row[-1] = -np.inf
        if size > 1:
            assert truncator.draw(row, row.max(), SamplingParams(), 1 - 2**-53) == size - 2


def test_a_large_draw_without_truncation_walks_the_exact_cdf() -> None:
    row = random_row(5, 49_157)
    p = np.exp(row.astype(np.float64) - row.max())
    cumulative = np.cumsum(p / p.sum())
    truncator = Truncator(len(row))
    for uniform in np.random.default_rng(0).random(300):
        token = truncator.draw(row, row.max(), SamplingParams(), float(uniform))
        before = cumulative[token - 1] if token else 0.0
        assert before - 1e-6 <= uniform <= cumulative[token] + 1e-6


class TestAgainstTransformers:
    """No two logits are equal here: transformers keeps ties that top_k cuts."""

    def kept(self, warper: object, row: np.ndarray, temperature: float = 1.0) -> list[int]:
        from transformers import TemperatureLogitsWarper

        ids = torch.zeros(1, 1, dtype=torch.long)
        scores = torch.from_numpy(row)[None].double()
        if temperature != 1.0:
            scores = TemperatureLogitsWarper(temperature)(ids, scores)
        return torch.isfinite(warper(ids, scores)[0]).nonzero().flatten().tolist()  # type: ignore[operator]

    @pytest.mark.parametrize("seed", range(5))
    def test_single_truncations(self, seed: int) -> None:
        from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper

        row = random_row(seed, 500)
        for temperature in (0.5, 1.0, 1.7):

            def ours(temperature: float = temperature, **truncation: float) -> list[int]:
                return support(row, SamplingParams(temperature=temperature, **truncation))

            for k in (1, 10, 400):
                assert ours(top_k=k) == self.kept(TopKLogitsWarper(k), row, temperature)
            for p in (0.1, 0.5, 0.95):
                assert ours(top_p=p) == self.kept(TopPLogitsWarper(p), row, temperature)
                assert ours(typical_p=p) == self.kept(TypicalLogitsWarper(p), row, temperature)
            for p in (0.001, 0.1, 0.7):
                assert ours(min_p=p) == self.kept(MinPLogitsWarper(p), row, temperature)

    @pytest.mark.parametrize("seed", range(5))
    def test_all_in_sequence(self, seed: int) -> None:
        from transformers import (
            LogitsProcessorList,
            MinPLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
            TypicalLogitsWarper,
        )

        row = random_row(seed, 500)
        chain = LogitsProcessorList(
            [TopKLogitsWarper(60), TopPLogitsWarper(0.95), MinPLogitsWarper(0.01), TypicalLogitsWarper(0.9)]
        )
        params = SamplingParams(temperature=1.3, top_k=60, top_p=0.95, min_p=0.01, typical_p=0.9)
        assert support(row, params) == self.kept(chain, row, 1.3)


def test_tiny_temperature_is_greedy_and_keeps_the_ties_equal() -> None:
    row = np.array([1.0, 3.0, 3.0, 2.999], np.float32)
    params = SamplingParams(temperature=1e-38)
    truncator = Truncator(4)
    with np.errstate(over="ignore"):
        assert [truncator.draw(row, row.max(), params, u) for u in (0.0, 0.49, 0.51, 0.99)] == [1, 1, 2, 2]


@pytest.mark.parametrize("seed", range(20))
def test_sums_of_blocks_that_were_rounded_up_still_give_a_token(seed: int) -> None:
    row = random_row(seed, 100, 1.0)
    truncator = Truncator(100)
    assert truncator.draw(row, row.max(), SamplingParams(), 1 - 2**-53) == 99


@pytest.mark.parametrize("kind", ["spread", "rounded", "equal", "two", "outlier", "close"])
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.3, 0.9, 0.999_999, 1.0, 2.0])
def test_the_shortest_head_of_many_values_is_that_of_a_full_sort(kind: str, share: float) -> None:
    values = random_row(3, 30_000)
    if kind == "rounded":
        values = np.round(values)
    elif kind == "equal":
        values[:] = 1.5
    elif kind == "two":
        values = (values > 0).astype(np.float32)
    elif kind == "close":
        values = (values > 0).astype(np.float32) * np.float32(1e-45)
    elif kind == "outlier":
        values[77] = 3e38
    weights = np.random.default_rng(4).integers(1, 9, 30_000).astype(np.float32)  # sums are exact
    target = share * float(weights.sum())
    order = np.lexsort((np.arange(30_000), -values))
    before = np.concatenate(([0.0], weights[order].astype(np.float64).cumsum()[:-1]))
    expected = order[(before < target) | (np.arange(30_000) == 0)]
    with np.errstate(over="ignore"):
        assert sorted(shortest_head(values, weights, target).tolist()) == sorted(expected.tolist())
