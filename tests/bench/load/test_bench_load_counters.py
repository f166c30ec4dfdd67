"""A server's counters: which are read, and what a point makes of them."""

from __future__ import annotations

import pytest

from paceline.bench.load.counters import read_counters, server_report

VLLM = """
# HELP vllm:spec_decode_num_drafts_total Drafts
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="a b"} 10.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="a b"} 30.0
vllm:spec_decode_num_draft_tokens_total{engine="0"} 120
vllm:spec_decode_num_accepted_tokens_total{engine="0"} 6e1
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 55
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:num_requests_waiting 3
python_gc_objects_collected_total{generation="0"} 1000
"""


def test_vllms_names_are_known_and_engines_are_summed() -> None:
    assert read_counters(VLLM) == {
        "drafts": 40, "draft_tokens": 120, "accepted_tokens": 60, "waiting": 3, "kv_usage": 0.5,
    }  # fmt: skip


def test_paceline_s_own_names_come_first() -> None:
    text = "paceline:drafts_total 5\nvllm:spec_decode_num_drafts_total 5\nvllm:num_preemptions_total 2\n"
    assert read_counters(text) == {"drafts": 5, "preemptions": 2}
    assert read_counters("<html>not metrics</html>\npaceline:drafts_total what") == {}


def test_a_point_is_the_difference_and_the_peaks() -> None:
    before = {"drafts": 100, "draft_tokens": 400, "accepted_tokens": 150, "prefix_queries": 10, "prefix_hits": 0}
    after = {"drafts": 140, "draft_tokens": 520, "accepted_tokens": 210, "prefix_queries": 90, "prefix_hits": 20}
    report = server_report(before, {**after, "waiting": 1}, [{"waiting": 7, "kv_usage": 0.2}, {"kv_usage": 0.4}])
    assert (report.drafts, report.draft_tokens, report.accepted_tokens) == (40, 120, 60)
    assert report.acceptance_rate == pytest.approx(0.5)
    assert report.acceptance_length == pytest.approx(2.5)
    assert report.prefix_hit_rate == pytest.approx(0.25)
    assert (report.peak_waiting, report.peak_kv_usage, report.preemptions) == (7, 0.4, None)


def test_what_a_server_does_not_tell_is_not_known() -> None:
    report = server_report({}, {}, [])
    assert report.acceptance_rate is report.acceptance_length is report.peak_waiting is None
    started_anew = server_report({"drafts": 100.0}, {"drafts": 3.0}, [])
    assert started_anew.drafts is None
    nothing = {"drafts": 0.0, "draft_tokens": 0.0, "accepted_tokens": 0.0}
    undrafted = server_report(nothing, nothing, [])
    assert undrafted.drafts == 0 and undrafted.acceptance_rate is None
