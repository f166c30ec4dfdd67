"""Each cause from observations that have it, and nothing from those that have none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.bench.diagnose.decide import diagnose
from paceline.bench.diagnose.metrics import Traffic
from paceline.bench.diagnose.observations import Local, Observations, Probes

GIB = 2**30
CALM = Traffic(
    seconds=10, running=0.2, peak_running=1, waiting=0.0, kv_usage=0.1, preemptions=0, requests=5, prompt_tokens=500,
    generation_tokens=300, queue=0.001, prefill=0.1, decode=0.3, tpot=0.005, busy=0.2, prefix_hits=0.5, drafts=40,
)  # fmt: skip
PROBES = Probes(
    round_trip=0.0004, short_ttft=0.02, short_tokens=30, long_ttft=0.5, long_tokens=1000, tpot=0.005, answer_tokens=32
)
QUIET = Local(cores=4, server_cores=1.0, other_cores=0.1, free_bytes=12 * GIB, total_bytes=16 * GIB)
SEEN = Observations(kind="paceline", lag=0.001, traffic=CALM, probes=PROBES, local=QUIET)


def seen(traffic: dict | None = None, local: dict | None = None, probes: dict | None = None, **more) -> Observations:
    return replace(
        SEEN,
        traffic=replace(CALM, **(traffic or {})),
        local=replace(QUIET, **(local or {})),
        probes=replace(PROBES, **(probes or {})),
        **more,
    )


def evidence(observations: Observations) -> str:
    return " / ".join(diagnose(observations).evidence)


LOADED = {"running": 4.0, "peak_running": 4, "busy": 0.95, "requests": 20}


def test_a_server_that_serves_as_requests_come_has_nothing_binding():
    finding = diagnose(SEEN)
    assert finding.cause == "nothing" and finding.unseen == ()
    assert finding.action == "No change: requests are served as they come."
    assert "5 requests began in 10 s" in finding.evidence[0]


def test_a_server_without_requests_is_to_be_looked_at_under_load():
    idle = seen({"requests": 0, "running": 0.0, "busy": 0.0, "queue": None, "prefill": None, "decode": None})
    assert diagnose(idle).cause == "nothing" and "--watch" in diagnose(idle).action
    assert "200 tokens a second" in evidence(idle) and "2021 prompt tokens a second" in evidence(idle)


@pytest.mark.parametrize(
    ("traffic", "told"),
    [
        ({"preemptions": 3}, "3 preemptions"),
        ({"kv_usage": 0.97}, "97% of the KV cache"),
        ({"kv_usage": 0.88, "waiting": 2.0}, "88% of the KV cache in use / 2.0 sequences wait"),
    ],
)
def test_a_full_kv_cache_is_memory_even_while_requests_wait(traffic, told):
    found = seen(traffic)
    assert diagnose(found).cause == "memory" and told in evidence(found)
    assert "--kv-cache-mb (12.0 GiB of the machine's memory are free)" in diagnose(found).action
    assert "--gpu-memory-utilization" in diagnose(replace(found, kind="vllm")).action


def test_a_cache_that_is_nearly_full_while_nobody_waits_is_used_well():
    assert diagnose(seen({"kv_usage": 0.88})).cause == "nothing"


def test_without_memory_for_a_larger_cache_fewer_sequences_help():
    found = seen({"preemptions": 1, "peak_running": 20}, {"free_bytes": 2 * GIB})
    assert "--max-running N below the 20 that run now" in diagnose(found).action


def test_a_machine_without_memory_is_memory():
    found = seen(local={"free_bytes": GIB // 2})
    assert diagnose(found).cause == "memory" and "0.5 GiB of the machine's 16.0 GiB are free" in evidence(found)


def test_programs_that_take_the_servers_cores_are_the_client_even_when_requests_wait():
    found = seen({"waiting": 5.0}, {"server_cores": 2.0, "other_cores": 2.0})
    assert diagnose(found).cause == "client" and "another machine" in diagnose(found).action
    assert "keep 2.0 of 4 cores busy, the server 2.0" in evidence(found)
    assert diagnose(found).beside == ("Queue: requests wait to be started.",)


def test_a_machine_kept_busy_by_its_own_server_alone_is_not_the_client():
    assert diagnose(seen(LOADED, {"server_cores": 3.8, "other_cores": 0.2})).cause != "client"


def test_late_timers_are_the_client():
    found = replace(SEEN, lag=0.05, local=None)
    assert diagnose(found).cause == "client" and "50.0 ms late" in evidence(found)


def test_a_long_way_to_the_server_is_the_client():
    found = seen(probes={"round_trip": 0.08, "short_ttft": 0.1})
    assert diagnose(found).cause == "client" and "80.0 ms, 80% of the time to first token" in evidence(found)
    assert diagnose(seen(probes={"round_trip": 0.004, "short_ttft": 0.005})).cause == "nothing"  # fast either way


def test_waiting_sequences_with_room_in_the_cache_are_the_queue():
    found = seen({**LOADED, "waiting": 6.0, "queue": 2.0})
    finding = diagnose(found)
    assert finding.cause == "queue" and "6.0 sequences wait on average, 4.0 run" in evidence(found)
    assert "a request waits 2.00 s, 83% of its time" in evidence(found) and "at most 10% in use" in evidence(found)
    assert finding.action.startswith("Start the server with --max-running above 4")


def test_a_full_batch_wants_cores_or_a_second_server():
    traffic = {**LOADED, "peak_running": 32, "waiting": 6.0}
    idle_cores = seen(traffic, {"server_cores": 2.0})
    assert "more --threads: 1.9 of 4 cores are idle" in diagnose(idle_cores).action
    full = seen(traffic, {"server_cores": 3.7})
    assert diagnose(full).action == "Add a second server, or send less: one serves 2.0 requests a second of this kind."


def test_prompts_that_take_longer_than_answers_are_prefill():
    found = seen({**LOADED, "prefill": 0.9, "decode": 0.3})
    finding = diagnose(found)
    assert finding.cause == "prefill" and "prompt takes 900 ms, its answer 300 ms" in evidence(found)
    assert "20.0 ms for 30 prompt tokens, 500 ms for 1000" in evidence(found)
    assert "more --threads" in finding.action
    few_hits = seen({**LOADED, "prefill": 0.9, "prefix_hits": 0.02})
    assert (
        "what they have in common" in diagnose(few_hits).action
        and "2% of the prompt tokens" in diagnose(few_hits).action
    )
    assert "--prefix-cache: it is off" in diagnose(seen({**LOADED, "prefill": 0.9, "prefix_hits": None})).action


def test_answers_that_take_longer_than_prompts_are_decode():
    found = seen({**LOADED, "prefill": 0.1, "decode": 3.0})
    finding = diagnose(found)
    assert finding.cause == "decode" and "5.00 ms a token, 4.0 sequences at a time" in evidence(found)
    assert "smaller weights format" in finding.action
    assert "--speculate auto" in diagnose(seen({**LOADED, "decode": 3.0, "drafts": 0})).action
    without = replace(seen({**LOADED, "decode": 3.0, "drafts": None}), kind="vllm")
    assert "--speculative-config" in diagnose(without).action
    assert "second server" in diagnose(seen({**LOADED, "decode": 3.0, "running": 16.0})).action


def test_where_no_request_ended_littles_law_tells_what_answers_take():
    # 4 sequences run, 2 requests a second begin: each stays 2 s, of which 0.5 s for its prompt
    found = seen({**LOADED, "prefill": 0.5, "decode": None})
    assert found.traffic is not None and found.traffic.answering == pytest.approx(1.5)
    assert diagnose(found).cause == "decode" and "answer takes 1.50 s, its prompt 500 ms" in evidence(found)


def test_a_server_that_does_not_tell_how_busy_it_is_is_judged_by_what_runs():
    vllm = replace(seen({**LOADED, "busy": None, "decode": 3.0}), kind="vllm")
    assert diagnose(vllm).cause == "decode" and "how much of the time the engine is busy" in diagnose(vllm).unseen[0]
    assert diagnose(replace(seen({"busy": None}), kind="vllm")).cause == "nothing"


BLIND = replace(SEEN, kind="other", traffic=None, local=None)


def test_without_metrics_it_says_what_it_cannot_see():
    calm = replace(BLIND, probes=replace(PROBES, long_ttft=0.06))
    finding = diagnose(calm)
    assert finding.cause == "nothing"
    assert [line.split(":")[0] for line in finding.unseen] == [
        "load, queue and KV cache", "the server's processors and memory"
    ]  # fmt: skip


def test_without_metrics_probes_tell_of_prefill_and_queue():
    finding = diagnose(BLIND)  # 0.48 s more for 970 tokens more; 31 tokens in 0.155 s
    assert finding.cause == "prefill" and "an answer of 32 tokens takes 155 ms" in finding.evidence[1]
    assert finding.action.startswith("Send shorter prompts")
    waiting = replace(BLIND, probes=replace(PROBES, short_ttft=0.4, long_ttft=0.9))
    assert diagnose(waiting).cause == "queue" and "as long as 80 later ones take" in evidence(waiting)


def test_answers_too_short_to_time_leave_the_rest_of_the_diagnosis():
    finding = diagnose(replace(BLIND, probes=replace(PROBES, tpot=None)))
    assert finding.cause == "nothing" and any("speed of one stream" in line for line in finding.unseen)


def test_without_requests_of_its_own_it_still_reads_metrics():
    finding = diagnose(replace(seen({**LOADED, "decode": 3.0}), probes=None))
    assert finding.cause == "decode" and any("no requests were sent" in line for line in finding.unseen)
