"""Metrics: what is counted, and that both names of a metric always say the same."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted_server import Script

from paceline.engine.messages import DrafterStats, EngineStats, StepReport
from paceline.server.metric_table import TABLE
from paceline.server.metrics import Histogram, Metrics

CHAT = "/v1/chat/completions"
BODY: Any = {"messages": [{"role": "user", "content": "hi"}]}

# Names that dashboards for vLLM and `vllm bench serve` read.
VLLM_NAMES = (
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "gpu_cache_usage_perc",
    "prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total", "prompt_tokens_total",
    "generation_tokens_total", "request_success_total", "time_to_first_token_seconds_bucket",
    "inter_token_latency_seconds_bucket", "time_per_output_token_seconds_bucket",
    "request_time_per_output_token_seconds_sum", "e2e_request_latency_seconds_count",
    "request_queue_time_seconds_bucket", "iteration_tokens_total_bucket", "request_prompt_tokens_bucket",
    "request_generation_tokens_bucket", "request_params_n_bucket", "request_prefill_time_seconds_sum",
    "request_decode_time_seconds_sum", "spec_decode_num_drafts_total", "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total", "spec_decode_num_accepted_tokens_per_pos_total",
)  # fmt: skip


SPECULATION: Any = {
    "draft_tokens": 12,
    "accepted_tokens": 6,
    "drafters": [
        DrafterStats(
            drafter="suffix",
            drafts=4,
            draft_tokens=8,
            accepted_tokens=5,
            drafted_per_position=[4, 4],
            accepted_per_position=[3, 2],
        ),
        DrafterStats(
            drafter="suffix",
            adapter="ner",
            drafts=2,
            draft_tokens=4,
            accepted_tokens=1,
            drafted_per_position=[2, 2],
            accepted_per_position=[1, 0],
        ),
        DrafterStats(drafter="ngram"),
    ],
    "decisions": {"none": 5, "suffix": 6},
    "predicted_seconds": 1.5,
    "realised_seconds": 1.25,
    "drafting_seconds": 0.125,
}


def samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Values by sample name, then by labels other than the model's."""
    result: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k not in ("model_name", "engine")))
            result.setdefault(sample.name, {})[labels] = sample.value
    return result


def value(server, name: str, **labels: str) -> float:
    return samples(server.get("/metrics").text)[name].get(tuple(sorted(labels.items())), 0.0)


@pytest.fixture
def busy(serve):
    """A server that has served something of every kind."""
    server = serve(Script(pause_s=0.001))
    server.post(CHAT, BODY)
    server.post(CHAT, {**BODY, "stream": True, "n": 2, "max_tokens": 5})
    server.post(CHAT, {**BODY, "temperature": -1})
    server.engine.stats = EngineStats(
        running=2, waiting=1, kv_blocks_total=10, kv_blocks_used=4, prefix_cache_hits=7, **SPECULATION
    )
    server.context.metrics.on_report(StepReport(deltas=[], step_rows=3, step_time=0.004))
    return server


def test_every_alias_has_the_values_of_its_metric(busy):
    found = samples(busy.get("/metrics").text)
    suffixes = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    compared = 0
    for row in TABLE:
        for alias in row.aliases:
            for suffix in suffixes[row.kind]:
                assert found[f"vllm:{alias}{suffix}"] == found[f"paceline:{row.name}{suffix}"]
                compared += 1
    assert compared > 40


def test_names_that_dashboards_read_exist(busy):
    found = samples(busy.get("/metrics").text)
    assert [name for name in VLLM_NAMES if f"vllm:{name}" not in found] == []


def test_tokens_and_requests_are_counted(busy):
    assert value(busy, "paceline:generation_tokens_total") == 13 + 2 * 5
    assert value(busy, "paceline:prompt_tokens_total") == 2 * len(busy.engine.requests[0].prompt_ids)
    assert value(busy, "paceline:requests_finished_total", finished_reason="stop") == 1
    assert value(busy, "paceline:requests_finished_total", finished_reason="length") == 2
    assert value(busy, "paceline:time_to_first_token_seconds_count") == 2
    assert value(busy, "paceline:inter_token_latency_seconds_count") == 12 + 2 * 4
    assert value(busy, "paceline:request_generation_tokens_sum") == 23


def test_engine_statistics_are_shown(busy):
    assert value(busy, "paceline:num_requests_running") == 2
    assert value(busy, "vllm:kv_cache_usage_perc") == 0.4
    assert value(busy, "vllm:prefix_cache_hits_total") == 7
    assert value(busy, "paceline:step_time_seconds_sum") == 0.004
    assert value(busy, "vllm:iteration_tokens_total_sum") == 3


def test_drafters_are_told_apart_and_by_adapter(busy):
    base, adapter = {"drafter": "suffix", "adapter": ""}, {"drafter": "suffix", "adapter": "ner"}
    assert value(busy, "paceline:drafter_drafts_total", **base) == 4
    assert value(busy, "paceline:drafter_draft_tokens_total", **adapter) == 4
    assert value(busy, "paceline:drafter_accepted_tokens_total", **base) == 5
    assert value(busy, "paceline:drafter_draft_tokens_per_position_total", **base, position="1") == 4
    assert value(busy, "paceline:drafter_accepted_tokens_per_position_total", **adapter, position="0") == 1
    assert value(busy, "paceline:drafter_acceptance_length", **base) == 1 + 5 / 4
    assert value(busy, "paceline:draft_decisions_total", drafter="none") == 5
    assert value(busy, "paceline:predicted_step_seconds_total") == 1.5
    assert value(busy, "paceline:realised_step_seconds_total") == 1.25
    assert value(busy, "paceline:drafting_seconds_total") == 0.125


def test_a_drafter_that_has_not_drafted_has_no_acceptance_length(busy):
    shown = samples(busy.get("/metrics").text)["paceline:drafter_acceptance_length"]
    assert sorted(dict(labels)["adapter"] for labels in shown) == ["", "ner"]


def test_vllms_names_have_vllms_labels_and_sum_over_drafters(busy):
    found = samples(busy.get("/metrics").text)
    assert found["vllm:spec_decode_num_drafts_total"] == {(): 6.0}
    assert found["vllm:spec_decode_num_draft_tokens_total"] == {(): 12.0}
    assert found["vllm:spec_decode_num_accepted_tokens_total"] == {(): 6.0}
    per_position = found["vllm:spec_decode_num_accepted_tokens_per_pos_total"]
    assert per_position == {(("position", "0"),): 4.0, (("position", "1"),): 2.0}


def test_answers_are_counted_by_route_and_status(busy):
    busy.get("/no/such/route")
    assert value(busy, "paceline:http_requests_total", method="POST", route=CHAT, status="200") == 2
    assert value(busy, "paceline:http_requests_total", method="POST", route=CHAT, status="400") == 1
    assert value(busy, "paceline:http_requests_total", method="GET", route="other", status="404") == 1


def test_metrics_can_be_looked_for_without_reading_them(busy):
    answer = busy.http.head(busy.url + "/metrics")
    assert (answer.status_code, answer.content) == (200, b"")


def test_metrics_are_labelled_with_the_model(busy):
    assert 'paceline:num_requests_running{engine="0",model_name="tiny"} 2.0' in busy.get("/metrics").text


def test_time_to_first_token_is_within_the_request(serve):
    server = serve(Script(pause_s=0.01))
    begin = time.monotonic()
    server.post(CHAT, BODY)
    whole = time.monotonic() - begin
    first = value(server, "paceline:time_to_first_token_seconds_sum")
    e2e = value(server, "paceline:e2e_request_latency_seconds_sum")
    decode = value(server, "paceline:request_decode_time_seconds_sum")
    assert 0 < first < e2e < whole
    assert first + decode == pytest.approx(e2e)


def test_histogram_counts_a_value_on_a_bound_into_that_bucket():
    histogram = Histogram((1.0, 2.0))
    for observed in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(observed)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 4.0), ("+Inf", 5.0)]
    assert histogram.total == 14.0


def test_counting_costs_less_than_a_few_microseconds():
    histogram = Metrics("m").itl
    begin = time.perf_counter()
    for _ in range(10_000):
        histogram.observe(0.003)
    assert (time.perf_counter() - begin) / 10_000 < 20e-6
