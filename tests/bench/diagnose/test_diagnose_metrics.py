"""Two readings of /metrics and what happened between them."""

from __future__ import annotations

import pytest

from paceline.bench.diagnose.metrics import MetricsError, read_metrics, traffic_between
from paceline.engine.messages import EngineStats, StepReport
from paceline.server.metrics import Metrics


def vllm(running: float, waiting: float, requests: int, **totals: float) -> str:
    """What vLLM writes, as far as it is read; one engine."""
    label = '{engine="0",model_name="m"}'
    lines = [
        "# TYPE vllm:num_requests_running gauge",
        f"vllm:num_requests_running{label} {running}",
        "# TYPE vllm:num_requests_waiting gauge",
        f"vllm:num_requests_waiting{label} {waiting}",
        "# TYPE vllm:kv_cache_usage_perc gauge",
        f"vllm:kv_cache_usage_perc{label} {totals.get('kv', 0.25)}",
        "# TYPE vllm:num_preemptions_total counter",
        f"vllm:num_preemptions_total{label} {totals.get('preemptions', 0)}",
    ]
    for name, mean in (
        ("time_to_first_token_seconds", 0.5),
        ("request_queue_time_seconds", 0.25),
        ("request_prefill_time_seconds", 0.125),
        ("request_decode_time_seconds", 2.0),
    ):
        lines += [f"# TYPE vllm:{name} histogram", f"vllm:{name}_count{label} {requests}"]
        lines += [f"vllm:{name}_sum{label} {requests * mean}"]
    return "\n".join(lines) + "\n"


def test_vllms_names_are_read():
    readings = [read_metrics(vllm(1, 0, 10), at=100), read_metrics(vllm(3, 4, 30, kv=0.5, preemptions=2), at=110)]
    assert readings[0].kind == "vllm"
    traffic = traffic_between(readings)
    assert (traffic.seconds, traffic.running, traffic.peak_running, traffic.waiting) == (10, 2.0, 3, 2.0)
    assert (traffic.kv_usage, traffic.preemptions, traffic.requests) == (0.5, 2, 20)
    assert (traffic.queue, traffic.prefill, traffic.decode) == (0.25, 0.125, 2.0)
    assert traffic.request_seconds == 2.375
    assert traffic.busy is None and traffic.drafts is None and traffic.tpot is None


def own(**stats: float) -> Metrics:
    metrics = Metrics("tiny")
    metrics.stats = lambda: EngineStats(kv_blocks_total=10, **stats)  # type: ignore[arg-type]
    return metrics


def test_pacelines_own_metrics_are_read():
    counts = {"prefix_cache_queries": 100, "prefix_cache_hits": 30, "preemptions": 1, "draft_tokens": 5}
    before, after = own(step_seconds=1.0), own(step_seconds=4.0, running=2, kv_blocks_used=9, **counts)
    after.on_report(StepReport(deltas=[], step_rows=1, step_time=0.1))
    after.queue_time.observe(0.5)
    after.prefill_time.observe(1.0)
    after.decode_time.observe(2.0)
    after.ttft.observe(1.5)
    after.prompt_tokens, after.generation_tokens = 100, 40
    traffic = traffic_between([read_metrics(m.scrape().decode(), at) for m, at in ((before, 0.0), (after, 5.0))])
    assert read_metrics(after.scrape().decode()).kind == "paceline"
    assert traffic.busy == pytest.approx(0.6) and traffic.kv_usage == pytest.approx(0.9)
    assert (traffic.requests, traffic.prompt_tokens, traffic.generation_tokens) == (1, 100, 40)
    assert (traffic.queue, traffic.prefill, traffic.decode, traffic.preemptions) == (0.5, 1.0, 2.0, 1)
    assert traffic.prefix_hits == pytest.approx(0.3)


def test_a_server_that_was_started_anew_counts_from_nothing():
    traffic = traffic_between([read_metrics(vllm(0, 0, 500), 0.0), read_metrics(vllm(0, 0, 8), 4.0)])
    assert traffic.requests == 8


def test_several_engines_are_added_and_the_fullest_cache_counts():
    one = vllm(2, 1, 4, kv=0.9)
    other = vllm(3, 0, 6, kv=0.2).replace('engine="0"', 'engine="1"')
    lines = [line for line in other.splitlines() if not line.startswith("#")]
    merged = {}
    for line in [*one.splitlines(), *lines]:
        merged.setdefault(line.split("{")[0], []).append(line)
    reading = read_metrics("\n".join(line for group in merged.values() for line in group) + "\n", 0.0)
    assert (reading.values["running"], reading.values["waiting"], reading.values["kv_usage"]) == (5, 1, 0.9)


def test_other_metrics_are_nobodys():
    reading = read_metrics("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 3\n")
    assert reading.kind == "other" and not reading.values


def test_a_page_of_another_kind_is_refused():
    with pytest.raises(MetricsError, match="not in Prometheus' format"):
        read_metrics("<html>nothing here</html>")
