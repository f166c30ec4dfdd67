"""Counters of servers: read, subtracted, and what follows from them."""

from __future__ import annotations

import pytest

from paceline.bench.speculation.acceptance import Acceptance
from paceline.bench.speculation.served.counters import is_paceline, read_step_counts
from paceline.bench.speculation.step_counts import StepCounts

METRICS = """# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 60.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 40.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 300.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 125.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 70.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 35.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="2"} 20.0
vllm:spec_decode_num_drafts_created{engine="0",model_name="m"} 1.7e+09
vllm:num_requests_running{engine="0"} 3.0
"""


def counted(counts: StepCounts) -> Acceptance:
    result = Acceptance()
    result.add_counts(counts)
    return result


def test_samples_of_all_engines_are_summed_and_others_left_alone() -> None:
    assert read_step_counts(METRICS) == StepCounts(100, 300, 125, [70, 35, 20])


def test_a_server_that_counts_no_drafts_says_nothing_and_not_zero() -> None:
    assert read_step_counts("vllm:num_requests_running 0\n") is None
    assert read_step_counts("") is None


def test_a_sample_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="many"):
        read_step_counts("vllm:spec_decode_num_drafts_total many\n")


def test_paceline_is_known_by_its_own_names() -> None:
    assert is_paceline('paceline:engine_up{model_name="m"} 1\n')
    assert not is_paceline(METRICS + "# paceline: mentioned in a comment\n")


def test_what_was_counted_since_may_have_new_positions() -> None:
    assert StepCounts(10, 30, 12, [7, 5]) - StepCounts(4, 12, 3, [3]) == StepCounts(6, 18, 9, [4, 5])


def test_length_is_one_and_accepted_by_draft() -> None:
    acceptance = counted(StepCounts(100, 300, 125, [70, 35, 20]))
    assert acceptance.micro == pytest.approx(1 + 125 / 100)
    assert acceptance.rate == pytest.approx(125 / 300)
    assert acceptance.sums_only


def test_positions_give_joint_and_conditional_acceptance_and_the_histogram() -> None:
    acceptance = counted(StepCounts(100, 300, 125, [70, 35, 20]))
    assert acceptance.joint == pytest.approx([0.70, 0.35, 0.20])
    assert acceptance.conditional == pytest.approx([0.70, 35 / 70, 20 / 35])
    assert acceptance.lengths == {1: 30, 2: 35, 3: 15, 4: 20}
    assert acceptance.micro == pytest.approx(1 + sum(acceptance.joint))


def test_positions_that_do_not_add_up_give_no_histogram() -> None:
    assert counted(StepCounts(100, 300, 125, [70, 35])).lengths == {}
    assert counted(StepCounts(100, 300, 125, [70, 20, 35])).lengths == {}
    assert counted(StepCounts(100, 300, 125)).joint == []


def test_categories_add_up_to_all() -> None:
    one, other = StepCounts(10, 30, 12, [8, 4]), StepCounts(30, 90, 12, [8, 4])
    both = counted(one)
    both.add_counts(other)
    assert both.micro == pytest.approx(1 + 24 / 40)
    assert both.lengths == {1: 24, 2: 8, 3: 8}


def test_a_server_that_drafted_nothing_decodes_plainly() -> None:
    acceptance = counted(StepCounts())
    assert (acceptance.micro, acceptance.rate, acceptance.steps) == (1.0, None, 0)
