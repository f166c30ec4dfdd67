"""Acceptance as SPEED-Bench and Spec-Bench define it, on steps counted by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from scripted_engine import turn

from paceline.bench.speculation.acceptance import acceptance, acceptance_of_conversations


def test_macro_is_the_mean_of_requests_and_micro_the_mean_of_steps() -> None:
    counts = acceptance([turn([4, 4]), turn([1, 1, 1, 1, 1, 1])])
    assert counts.macro == pytest.approx((4 + 1) / 2)
    assert counts.micro == pytest.approx(14 / 8)


def test_the_prefill_token_is_a_step_only_in_the_values_that_say_so() -> None:
    counts = acceptance([turn([4, 4]), turn([1])])
    assert counts.macro_with_prefill == pytest.approx((9 / 3 + 2 / 2) / 2)
    assert counts.micro_with_prefill == pytest.approx(11 / 5)


def test_joint_acceptance_sums_to_micro_and_is_the_product_of_conditional() -> None:
    counts = acceptance([turn([1, 2, 2, 4, 4, 4, 1, 3])])
    assert counts.joint == pytest.approx([6 / 8, 4 / 8, 3 / 8])
    assert counts.conditional == pytest.approx([6 / 8, 4 / 6, 3 / 4])
    assert counts.micro == pytest.approx(1 + sum(counts.joint))


def test_plain_decoding_has_length_one_and_no_rate() -> None:
    counts = acceptance([turn([1, 1, 1]), turn([])])
    assert (counts.macro, counts.micro, counts.macro_with_prefill) == (1.0, 1.0, 1.0)
    assert counts.joint == counts.conditional == []
    assert counts.rate is None


def test_an_answer_of_one_token_has_no_steps_and_does_not_weigh_in_the_macro_mean() -> None:
    assert acceptance([turn([3, 3]), turn([])]).macro == 3.0


def test_nothing_measured_is_plain_decoding() -> None:
    counts = acceptance([])
    assert (counts.macro, counts.micro, counts.micro_with_prefill, counts.steps) == (1.0, 1.0, 1.0, 0)


def test_rate_is_accepted_over_drafted_of_all_drafters() -> None:
    one = turn([3])
    one.drafted, one.accepted = Counter(suffix=4, ngram=4), Counter(suffix=1, ngram=1)
    assert acceptance([one]).rate == pytest.approx(2 / 8)


def test_a_conversation_is_one_request_whose_turns_count_together() -> None:
    passes = [{(0, 0): turn([4, 4, 4]), (0, 1): turn([1]), (1, 0): turn([2, 2])}]
    counts = acceptance_of_conversations(passes)
    assert counts.macro == pytest.approx((13 / 4 + 4 / 2) / 2)
    assert counts.micro == pytest.approx(17 / 6)
    assert counts.macro_with_prefill == pytest.approx((15 / 6 + 5 / 3) / 2)
    assert counts.micro_with_prefill == pytest.approx(20 / 9)
    assert counts.macro != acceptance([*passes[0].values()]).macro


def test_the_same_conversation_of_two_passes_is_two_requests() -> None:
    counts = acceptance_of_conversations([{(0, 0): turn([4, 4])}, {(0, 0): turn([2, 2, 2])}])
    assert counts.macro == pytest.approx(3.0)
    assert counts.micro == pytest.approx(14 / 5)


def test_a_prefill_that_verified_drafts_is_a_step_and_no_prefill() -> None:
    verified = turn([3, 2], prefill=0)
    counts = acceptance_of_conversations([{(0, 0): verified}])
    assert counts.micro == pytest.approx(5 / 2)
    assert counts.micro_with_prefill == counts.macro_with_prefill == pytest.approx(5 / 2)
