"""A server's ``/metrics``, read twice: what happened in between. Paceline's names or vLLM's, whichever are there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from paceline.errors import PacelineError

Kind = Literal["paceline", "vllm", "other"]

#: What is read: name here, names there behind the prefix. A share is the largest over a server's engines, anything
#: else their sum.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "running": ("num_requests_running",),
    "waiting": ("num_requests_waiting",),
    "kv_usage": ("kv_cache_usage", "kv_cache_usage_perc", "gpu_cache_usage_perc"),
    "preemptions": ("preemptions_total", "num_preemptions_total"),
    "prompt_tokens": ("prompt_tokens_total",),
    "generation_tokens": ("generation_tokens_total",),
    "prefix_queries": ("prefix_cache_queries_total",),
    "prefix_hits": ("prefix_cache_hits_total",),
    "drafts": ("drafts_total", "spec_decode_num_drafts_total"),
    "step_seconds": ("step_seconds_total",),
    **{
        f"{short}_{part}": (f"{name}_{part}",)
        for short, name in (
            ("ttft", "time_to_first_token_seconds"),
            ("tpot", "request_time_per_output_token_seconds"),
            ("queue", "request_queue_time_seconds"),
            ("prefill", "request_prefill_time_seconds"),
            ("decode", "request_decode_time_seconds"),
        )
        for part in ("sum", "count")
    },
}
_SHARES = frozenset(("kv_usage",))
_PREFIXES: tuple[Kind, ...] = ("paceline", "vllm")


class MetricsError(PacelineError):
    """``/metrics`` is not what Prometheus reads."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Values at the time ``at`` (``time.perf_counter()``); what the server does not tell is missing."""

    at: float
    kind: Kind
    values: Mapping[str, float]


def read_metrics(text: str, at: float | None = None) -> Reading:
    """Reads the text of ``/metrics``. Raises ``MetricsError`` for another format."""
    from prometheus_client.parser import text_string_to_metric_families

    samples: dict[str, list[float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(sample.value)
    except ValueError as error:
        raise MetricsError(f"/metrics is not in Prometheus' format: {error}") from error
    kind: Kind = next((one for one in _PREFIXES if any(name.startswith(f"{one}:") for name in samples)), "other")
    values = {}
    for key, names in _NAMES.items():
        found = next((samples[full] for name in names if (full := f"{kind}:{name}") in samples), None)
        if found is not None:
            values[key] = max(found) if key in _SHARES else sum(found)
    return Reading(time.perf_counter() if at is None else at, kind, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a server did in ``seconds``. None: it does not tell, or there was none of it.

    ``running``, ``waiting``: sequences, mean over the readings; ``peak_running``: most of them; ``kv_usage``: largest
    share of the KV cache in use; ``requests``: that got their first token. ``queue``, ``prefill``, ``decode``: mean
    seconds of a request in each; ``tpot``: seconds a token after the first. ``busy``: share of the time in engine
    steps. ``prefix_hits``: share of prompt tokens found in the prefix cache; ``drafts``: drafts verified.
    """

    seconds: float
    running: float | None = None
    peak_running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    preemptions: float | None = None
    requests: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    queue: float | None = None
    prefill: float | None = None
    decode: float | None = None
    tpot: float | None = None
    busy: float | None = None
    prefix_hits: float | None = None
    drafts: float | None = None

    @property
    def request_seconds(self) -> float | None:
        """Mean time of a request in the server; None where a part of it is not told."""
        if self.queue is None or self.prefill is None or self.decode is None:
            return None
        return self.queue + self.prefill + self.decode

    @property
    def answering(self) -> float | None:
        """``decode``, or where no request ended what Little's law leaves for it: sequences run for ``running`` /
        (requests a second) on average, prompts included."""
        if self.decode is not None or not self.requests or self.running is None or self.prefill is None:
            return self.decode
        return max(0.0, self.running * self.seconds / self.requests - self.prefill)


def traffic_between(readings: Sequence[Reading]) -> Traffic:
    """What happened from the first to the last reading, of which there are at least two. A counter that fell (the
    server was started anew) counts from 0."""
    first, last = readings[0], readings[-1]
    seconds = last.at - first.at

    def grown(key: str) -> float | None:
        if key not in last.values:
            return None
        before = first.values.get(key, 0.0)
        return last.values[key] - (before if last.values[key] >= before else 0.0)

    def mean(key: str) -> float | None:
        """Of a histogram's new values."""
        count, total = grown(f"{key}_count"), grown(f"{key}_sum")
        return total / count if count and total is not None else None

    def seen(key: str) -> list[float]:
        return [reading.values[key] for reading in readings if key in reading.values]

    def average(key: str) -> float | None:
        values = seen(key)
        return sum(values) / len(values) if values else None

    steps, queries, hits = grown("step_seconds"), grown("prefix_queries"), grown("prefix_hits")
    return Traffic(
        seconds=seconds,
        running=average("running"),
        peak_running=max(seen("running"), default=None),
        waiting=average("waiting"),
        kv_usage=max(seen("kv_usage"), default=None),
        preemptions=grown("preemptions"),
        requests=grown("ttft_count"),
        prompt_tokens=grown("prompt_tokens"),
        generation_tokens=grown("generation_tokens"),
        queue=mean("queue"),
        prefill=mean("prefill"),
        decode=mean("decode"),
        tpot=mean("tpot"),
        busy=None if steps is None else min(1.0, steps / seconds),
        prefix_hits=hits / queries if queries and hits is not None else None,
        drafts=grown("drafts"),
    )
