"""Prometheus metrics. One table names every metric, its vLLM aliases and its buckets, so that both names always agree.

Values live in plain Python objects that cost a fraction of a microsecond to update (no locks, no label look-ups: the
server has one thread that counts); families are built when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline.engine.messages import EngineStats, StepReport

_SECONDS_SHORT = (
    .001, .002, .003, .004, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .15, .2, .3, .5, 1, 3,
)  # fmt: skip
_SECONDS = (
    .005, .01, .02, .04, .06, .08, .1, .15, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
)  # fmt: skip
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_COUNTS = (1, 2, 5, 10, 20, 50, 100)


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
    Row("counter", "draft_tokens", "Draft tokens verified"),
    Row("counter", "accepted_tokens", "Draft tokens accepted"),
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

_ROW = {row.name: row for row in TABLE}
_ENGINE_COUNTERS = (
    "prefix_cache_queries", "prefix_cache_hits", "preemptions", "steps", "step_seconds", "rows", "draft_tokens",
    "accepted_tokens",
)  # fmt: skip


class Histogram:
    """Counts a value into the first bucket that holds it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' form: for each upper bound, how many values do not exceed it."""
        pairs, seen = [], 0
        for bound, count in zip((*map(float, self.bounds), None), self.counts, strict=True):
            seen += count
            pairs.append(("+Inf" if bound is None else str(bound), float(seen)))
        return pairs


class Metrics(Collector):
    """All metrics of one server. ``model_name`` labels every engine metric, as dashboards for vLLM expect."""

    def __init__(self, model_name: str = "") -> None:
        self.model_name = model_name
        self.up: Callable[[], bool] = lambda: False
        self.stats: Callable[[], EngineStats] = EngineStats
        self.restarts: Callable[[], int] = lambda: 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: dict[str, int] = dict.fromkeys(("stop", "length", "abort", "error"), 0)
        self.http: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.ttft = self._histogram("time_to_first_token_seconds")
        self.itl = self._histogram("inter_token_latency_seconds")
        self.tpot = self._histogram("request_time_per_output_token_seconds")
        self.e2e = self._histogram("e2e_request_latency_seconds")
        self.queue_time = self._histogram("request_queue_time_seconds")
        self.prefill_time = self._histogram("request_prefill_time_seconds")
        self.decode_time = self._histogram("request_decode_time_seconds")
        self.request_prompt = self._histogram("request_prompt_tokens")
        self.request_generation = self._histogram("request_generation_tokens")
        self.request_n = self._histogram("request_n")
        self.step_rows = self._histogram("step_rows")
        self.step_time = self._histogram("step_time_seconds")
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        if not hasattr(self, "_histograms"):
            self._histograms: dict[str, Histogram] = {}
        return self._histograms.setdefault(name, Histogram(_ROW[name].buckets))

    def on_report(self, report: StepReport) -> None:
        """Counts one engine step."""
        if report.step_rows:
            self.step_rows.observe(report.step_rows)
            self.step_time.observe(report.step_time)

    def scrape(self) -> bytes:
        """The text that ``/metrics`` answers."""
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        values = self._scalars()
        for row in TABLE:
            names = (f"paceline:{row.name}", *(f"vllm:{alias}" for alias in row.aliases))
            for name in names:
                yield self._family(row, name, values)

    def _scalars(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Values of gauges and counters by label values."""
        stats = self.stats()
        plain = {
            "engine_up": float(self.up()),
            "num_requests_running": stats.running,
            "num_requests_waiting": stats.waiting,
            "kv_cache_usage": stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0,
            "kv_blocks": stats.kv_blocks_total,
            "engine_restarts": self.restarts(),
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
            **{name: getattr(stats, name) for name in _ENGINE_COUNTERS},
        }
        values: dict[str, dict[tuple[str, ...], float]] = {name: {(): value} for name, value in plain.items()}
        values["requests_finished"] = {(reason,): count for reason, count in self.finished.items()}
        values["http_requests"] = {labels: float(count) for labels, count in self.http.items()}
        return values

    def _family(self, row: Row, name: str, values: dict[str, dict[tuple[str, ...], float]]) -> Metric:
        label_names, label_values = ["model_name", "engine", *row.labels], (self.model_name, "0")
        if row.kind == "histogram":
            histogram = self._histograms[row.name]
            family = HistogramMetricFamily(name, row.help, labels=label_names)
            family.add_metric(label_values, histogram.cumulative(), histogram.total)
            return family
        kind = GaugeMetricFamily if row.kind == "gauge" else CounterMetricFamily
        scalar = kind(name, row.help, labels=label_names)
        for extra, value in values[row.name].items():
            scalar.add_metric((*label_values, *extra), value)
        return scalar
