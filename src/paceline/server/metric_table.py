"""Every metric, with its vLLM aliases and its buckets: both names come from one row, so they always agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_SECONDS_SHORT = (
    .001, .002, .003, .004, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .15, .2, .3, .5, 1, 3,
)  # fmt: skip
_SECONDS = (
    .005, .01, .02, .04, .06, .08, .1, .15, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
)  # fmt: skip
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_COUNTS = (1, 2, 5, 10, 20, 50, 100)
_DRAFTER = ("drafter", "adapter")
_ADAPTER = ("adapter",)


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: ``paceline:{name}``, and ``vllm:{alias}`` for each alias. Counters get ``_total`` appended."""

    kind: Literal["gauge", "counter", "histogram"]
    name: str
    help: str
    aliases: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


TABLE: tuple[Row, ...] = (
    Row("gauge", "engine_up", "1 while the engine process serves requests"),
    Row("gauge", "num_requests_running", "Sequences in the running batch", ("num_requests_running",)),
    Row("gauge", "num_requests_waiting", "Sequences waiting to be scheduled", ("num_requests_waiting",)),
    Row("gauge", "kv_cache_usage", "KV blocks in use, 0 to 1", ("kv_cache_usage_perc", "gpu_cache_usage_perc")),
    Row("gauge", "kv_blocks", "KV blocks that exist"),
    Row("counter", "engine_restarts", "Times that a dead engine process was replaced"),
    Row("counter", "prefix_cache_queries", "Prompt tokens looked up in the prefix cache", ("prefix_cache_queries",)),
    Row("counter", "prefix_cache_hits", "Prompt tokens found in the prefix cache", ("prefix_cache_hits",)),
    Row("counter", "preemptions", "Sequences stopped for want of KV blocks", ("num_preemptions",)),
    Row("counter", "steps", "Engine steps"),
    Row("counter", "step_seconds", "Time spent in engine steps"),
    Row("counter", "rows", "Tokens computed: prompt, new and draft tokens"),
    Row("counter", "drafts", "Drafts verified", ("spec_decode_num_drafts",)),
    Row("counter", "draft_tokens", "Draft tokens verified", ("spec_decode_num_draft_tokens",)),
    Row("counter", "accepted_tokens", "Draft tokens accepted", ("spec_decode_num_accepted_tokens",)),
    Row("counter", "accepted_tokens_per_position", "Draft tokens accepted, by position in the draft",
        ("spec_decode_num_accepted_tokens_per_pos",), (), ("position",)),
    Row("counter", "drafter_drafts", "Drafts of a drafter verified", (), (), _DRAFTER),
    Row("counter", "drafter_draft_tokens", "Draft tokens of a drafter verified", (), (), _DRAFTER),
    Row("counter", "drafter_accepted_tokens", "Draft tokens of a drafter accepted", (), (), _DRAFTER),
    Row("counter", "drafter_draft_tokens_per_position", "Draft tokens of a drafter verified, by position",
        (), (), (*_DRAFTER, "position")),
    Row("counter", "drafter_accepted_tokens_per_position", "Draft tokens of a drafter accepted, by position",
        (), (), (*_DRAFTER, "position")),
    Row("gauge", "drafter_acceptance_length", "Mean tokens of a step that verified a draft, since the start",
        (), (), _DRAFTER),
    Row("counter", "adapter_requests", "Requests for an adapter", (), (), _ADAPTER),
    Row("counter", "adapter_generation_tokens", "Tokens generated with an adapter", (), (), _ADAPTER),
    Row("gauge", "adapter_requests_running", "Sequences of an adapter in the running batch", (), (), _ADAPTER),
    Row("gauge", "adapter_requests_waiting", "Sequences of an adapter that wait", (), (), _ADAPTER),
    Row("counter", "adapter_loads", "Times that an adapter was read or put into a slot", (), (), _ADAPTER),
    Row("counter", "adapter_evictions", "Times that an adapter lost its slot to another", (), (), _ADAPTER),
    Row("counter", "adapter_load_seconds", "Time spent reading an adapter and filling its slot", (), (), _ADAPTER),
    Row("counter", "draft_decisions", "Whose draft a sequence got in a step; none: no draft", (), (), ("drafter",)),
    Row("counter", "predicted_step_seconds", "Time that the cost table foresaw for the steps that it foresaw"),
    Row("counter", "realised_step_seconds", "Time that these steps took"),
    Row("counter", "drafting_seconds", "Time spent by drafters and in the choice between them"),
    Row("gauge", "learn_texts", "Texts kept to learn from (--learn)"),
    Row("gauge", "learn_text_bytes", "Their bytes on disk"),
    Row("counter", "learn_missed_texts", "Texts that were not kept because the disk was too slow or failed"),
    Row("gauge", "speculator_version", "Version of the speculator in use; 0: the one of the start"),
    Row("counter", "speculator_versions_trained", "Versions made from traffic since the server started"),
    Row("counter", "trainer_restarts", "Times that the trainer's process ended by itself"),
    Row("gauge", "speculator_held_out_acceptance_length",
        "Tokens a step on fresh held-out texts, when the last version was judged", (), (), ("speculator",)),
    Row("counter", "prompt_tokens", "Prompt tokens of requests that began", ("prompt_tokens",)),
    Row("counter", "generation_tokens", "Tokens generated", ("generation_tokens",)),
    Row("counter", "requests_finished", "Sequences by how they ended", ("request_success",), (), ("finished_reason",)),
    Row("counter", "http_requests", "HTTP answers", (), (), ("method", "route", "status")),
    Row("histogram", "time_to_first_token_seconds", "From arrival to the first token",
        ("time_to_first_token_seconds",), _SECONDS),
    Row("histogram", "inter_token_latency_seconds", "Between deliveries of new tokens of one sequence",
        ("inter_token_latency_seconds", "time_per_output_token_seconds"), _SECONDS_SHORT),
    Row("histogram", "request_time_per_output_token_seconds", "Mean time of a token after the first, for a sequence",
        ("request_time_per_output_token_seconds",), _SECONDS_SHORT),
    Row("histogram", "e2e_request_latency_seconds", "From arrival to the end of the request",
        ("e2e_request_latency_seconds",), _SECONDS),
    Row("histogram", "request_queue_time_seconds", "From arrival to being scheduled",
        ("request_queue_time_seconds",), _SECONDS),
    Row("histogram", "request_prefill_time_seconds", "From being scheduled to the first token",
        ("request_prefill_time_seconds",), _SECONDS),
    Row("histogram", "request_decode_time_seconds", "From the first token to the end of the request",
        ("request_decode_time_seconds",), _SECONDS),
    Row("histogram", "request_prompt_tokens", "Prompt tokens of a request", ("request_prompt_tokens",), _TOKENS),
    Row("histogram", "request_generation_tokens", "Tokens generated in a sequence",
        ("request_generation_tokens",), _TOKENS),
    Row("histogram", "request_n", "Sequences asked for", ("request_params_n",), _COUNTS),
    Row("histogram", "step_rows", "Tokens computed in a step", ("iteration_tokens_total",), _ROWS),
    Row("histogram", "step_time_seconds", "Time of a step", (), _SECONDS_SHORT),
)  # fmt: skip
