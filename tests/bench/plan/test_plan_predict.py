"""Predicted times on ideal machines, worked out by hand, and on real ones, against published measurements."""

from __future__ import annotations

from typing import Any

import pytest
from plan_models import BF16, FP8, LLAMA_2_7B, LLAMA_2_70B, LLAMA_3_8B, ideal_machine, spec_of

from paceline.bench.plan.acceptance import chance_of, expected_tokens
from paceline.bench.plan.devices import GPUS, find_gpu
from paceline.bench.plan.machines import Efficiency, check_parallel, gpu_machine
from paceline.bench.plan.predict import Predictor, Speculation, Traffic, counts
from paceline.bench.plan.sizes import Format
from paceline.bench.roofline.work import Work
from paceline.errors import PacelineError

INT8_ALONE = Format("8-bit", 8, "bf16", 8, "bf16")
INT4_G32 = Format("4-bit", 4 + 32 / 32, "bf16", 16, "bf16")


@pytest.mark.parametrize(
    ("config", "form", "gpus", "tokens"),
    [
        (LLAMA_2_7B, BF16, 1, 104.9),
        (LLAMA_2_7B, INT8_ALONE, 1, 155.58),
        (LLAMA_2_7B, INT4_G32, 1, 196.80),
        (LLAMA_2_7B, BF16, 2, 168.84),
        (LLAMA_2_7B, BF16, 4, 254.02),
        (LLAMA_2_7B, BF16, 8, 328.43),
        (LLAMA_2_70B, INT8_ALONE, 1, 19.13),
        (LLAMA_2_70B, INT4_G32, 1, 25.25),
        (LLAMA_2_70B, BF16, 2, 21.32),
        (LLAMA_2_70B, BF16, 4, 38.01),
        (LLAMA_2_70B, BF16, 8, 62.50),
        (LLAMA_2_70B, INT8_ALONE, 8, 80.44),
        (LLAMA_2_70B, INT4_G32, 8, 90.77),
    ],
)
def test_one_stream_is_as_fast_as_was_measured(config: dict[str, Any], form: Format, gpus: int, tokens: float) -> None:
    """Published by gpt-fast (github.com/pytorch-labs/gpt-fast, README): A100 80 GB, one sequence, a short prompt."""
    predictor = Predictor(spec_of(config), form, gpu_machine(find_gpu("a100"), gpus))
    assert 1 / predictor.step(1, 1, 100) == pytest.approx(tokens, rel=0.25)
    if gpus == 1:
        assert 1 / predictor.step(1, 1, 100) == pytest.approx(tokens, rel=0.1)


def test_a_step_of_one_row_reads_the_weights_and_the_context() -> None:
    predictor = Predictor(spec_of(LLAMA_3_8B), BF16, ideal_machine(1e11, bandwidth=1e12, rate=1e18))
    weights, logits = 2 * 7_504_658_432, 4 * 128_256
    assert predictor.step(1, 1, 999) == pytest.approx((weights + logits + 1000 * 131_072) / 1e12, rel=1e-6)


def test_a_prompt_is_bound_by_arithmetic_and_has_one_row_of_logits() -> None:
    predictor = Predictor(spec_of(LLAMA_3_8B), BF16, ideal_machine(1e11, bandwidth=1e18, rate=1e15))
    body, head, tokens = 6_979_321_856, 128_256 * 4096, 1000
    last = 4096 * 4096 + 3 * 14_336 * 4096  # what stands behind the last layer's attention
    attention = 4 * 4096 * 32 * tokens * (tokens + 1) / 2
    products = 2 * ((body - last) * tokens + last + head)
    assert predictor.prefill(tokens) == pytest.approx((products + attention) / 1e15, rel=1e-6)


def test_drafts_pay_where_rows_are_free_and_not_where_they_cost_what_they_give() -> None:
    spec, drafts = spec_of(LLAMA_3_8B), Speculation.guess(2.0, 3, layers=0)
    memory_bound = Predictor(spec, BF16, ideal_machine(1e11, bandwidth=1e12, rate=1e18))
    draft, seconds, tokens = memory_bound.decode(1, 100, drafts)
    assert (draft, tokens) == (3, pytest.approx(2.0))
    assert seconds == pytest.approx(memory_bound.step(1, 1, 100), rel=0.01)
    busy = Predictor(spec, BF16, ideal_machine(1e11, bandwidth=1e18, rate=1e12))
    assert busy.decode(1, 100, drafts)[0] == 0
    assert busy.decode(1, 100, drafts) == busy.decode(1, 100, None)


def test_a_drafter_reads_its_layers_and_the_head() -> None:
    predictor = Predictor(spec_of(LLAMA_3_8B), BF16, ideal_machine(1e11, bandwidth=1e12, rate=1e18))
    layer, head = 6_979_321_856 / 32, 128_256 * 4096
    logits = 4 * 128_256 * 3
    assert predictor.drafting(1, 3, layers=1) == pytest.approx((2 * (layer + head) + logits) / 1e12, rel=1e-6)
    assert predictor.drafting(1, 3, layers=0) == predictor.drafting(1, 0, layers=1) == 0.0


def test_requests_of_a_busy_machine_wait_for_each_others_prompts() -> None:
    predictor = Predictor(spec_of(LLAMA_3_8B), BF16, ideal_machine(1e11))
    traffic = Traffic(1000, 101)
    prompt, one = predictor.prefill(1000), predictor.point(1, traffic)
    assert one.ttft == prompt
    assert one.tpot == pytest.approx(predictor.step(1, 1, 1050))
    assert one.requests == pytest.approx(1 / (prompt + 100 * one.step))
    four = predictor.point(4, traffic)
    whole = 4 * prompt + 100 * four.step
    assert four.requests == pytest.approx(4 / whole)
    load = 3 * prompt / whole
    assert four.ttft == pytest.approx(prompt + load * prompt / (2 * (1 - load)) + four.step / 2)
    assert four.ttft + 100 * four.tpot == pytest.approx(whole)
    assert four.tokens == pytest.approx(101 * four.requests)


def test_answers_of_one_token_are_their_prompt() -> None:
    point = Predictor(spec_of(LLAMA_3_8B), BF16, ideal_machine(1e11)).point(1, Traffic(1000, 1))
    assert point.requests == pytest.approx(1 / point.ttft)
    assert point.user_tokens > 0


def test_fp8_doubles_what_memory_and_arithmetic_give_the_layers() -> None:
    wide, narrow = (
        Predictor(spec_of(LLAMA_3_8B), form, ideal_machine(1e11, rate=1e18)).step(1, 1, 0) for form in (BF16, FP8)
    )
    assert wide - narrow == pytest.approx(6_979_321_856 / 1e12, rel=1e-6)


def test_what_does_not_overlap_adds_up_and_layers_and_numbers_cost_besides() -> None:
    plain = ideal_machine(1e11, bandwidth=100.0, rate=1000.0)
    products, attention = Work(200.0, {"bf16": 1500.0}), Work(100.0, {"bf16": 3000.0})
    assert plain.seconds(products, attention, 16, 2, 10) == 2.0 + 3.0
    losses = Efficiency(((16, 0.5), (0, 0.25)), 0.5, 0.5, 0.25, 0.0, layer_seconds=10.0, number_seconds=0.1)
    losing = ideal_machine(1e11, bandwidth=100.0, rate=1000.0, efficiency=losses)
    assert losing.seconds(products, attention, 16, 2, 10) == pytest.approx((4.0 + 3.0) + (2.0 + 12.0) + 20.0 + 1.0)
    assert losing.seconds(products, Work(), 4.5, 0, 0) == pytest.approx(8.0 + 3.0)
    two = ideal_machine(1e11, bandwidth=100.0, rate=1000.0, speed=0.5)
    assert two.seconds(products, attention, 16, 2, 10) == 10.0


def test_curves_double_up_to_their_end() -> None:
    assert counts(1) == [1]
    assert counts(8) == [1, 2, 4, 8]
    assert counts(11) == [1, 2, 4, 8, 11]


def test_tokens_of_a_step_follow_from_the_chance_and_back() -> None:
    assert expected_tokens(0.5, 3) == 1 + 0.5 + 0.25 + 0.125
    assert expected_tokens(1.0, 4) == 5
    assert expected_tokens(0.7, 0) == 1
    for chance in (0.1, 0.5, 0.9):
        assert chance_of(expected_tokens(chance, 3), 3) == pytest.approx(chance, abs=1e-6)
    assert chance_of(1.0, 3) == pytest.approx(0, abs=1e-6)
    assert chance_of(4.0, 3) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("length", [0.5, 4.5])
def test_impossible_acceptance_lengths_are_refused_with_the_limit(length: float) -> None:
    with pytest.raises(PacelineError, match="between 1 and 4"):
        chance_of(length, 3)


def test_several_gpus_add_up_but_for_their_link() -> None:
    one, four = gpu_machine(find_gpu("h100")), gpu_machine(find_gpu("h100"), 4)
    assert four.memory == 4 * one.memory
    assert four.ceilings.bandwidth == 4 * one.ceilings.bandwidth
    assert (one.speed, four.speed, gpu_machine(find_gpu("l40s"), 4).speed) == (1.0, 0.95, 0.75)
    with pytest.raises(PacelineError, match="32 attention heads"):
        check_parallel(3, 32)


def test_gpus_are_found_however_they_are_written() -> None:
    assert find_gpu("H100").title == "NVIDIA H100 SXM"
    assert find_gpu("NVIDIA RTX 4090").name == "rtx4090"
    assert find_gpu("a100_40").name == "a100-40"
    with pytest.raises(PacelineError, match=r"no GPU 'k80' in the table; there are b200, h200"):
        find_gpu("k80")


def test_data_sheets_are_in_the_units_of_the_table() -> None:
    for gpu in GPUS.values():
        assert 0.2e12 < gpu.bandwidth < 1e13, gpu.name
        assert 6e13 < gpu.rates["bf16"] < 3e15, gpu.name
        # Dense rates: a number of half the bits is multiplied twice as fast, on gaming chips up to four times.
        assert all(1.9 <= rate / gpu.rates["bf16"] <= 4.1 for name, rate in gpu.rates.items() if name != "bf16"), (
            gpu.name
        )
        assert gpu.source
