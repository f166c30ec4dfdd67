"""Prometheus metrics, by the table in ``metric_table``.

Values live in plain Python objects that cost a fraction of a microsecond to update (no locks, no label look-ups: the
server has one thread that counts); families are built when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline.engine.messages import EngineStats, StepReport
from paceline.server.adapter_metrics import adapter_values
from paceline.server.drafter_metrics import Values, drafter_values
from paceline.server.learning import Learning
from paceline.server.learning_metrics import learning_values
from paceline.server.metric_table import TABLE, Row

_ROW = {row.name: row for row in TABLE}
_ENGINE_COUNTERS = (
    "prefix_cache_queries", "prefix_cache_hits", "preemptions", "steps", "step_seconds", "rows", "draft_tokens",
    "accepted_tokens", "drafting_seconds",
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
        self.learning: Callable[[], Learning | None] = lambda: None
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

    def _scalars(self) -> dict[str, Values]:
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
            "predicted_step_seconds": stats.predicted_seconds,
            "realised_step_seconds": stats.realised_seconds,
            **{name: getattr(stats, name) for name in _ENGINE_COUNTERS},
        }
        values: dict[str, Values] = {name: {(): value} for name, value in plain.items()}
        values.update(drafter_values(stats))
        values.update(adapter_values(stats))
        values.update(learning_values(self.learning()))
        values["requests_finished"] = {(reason,): count for reason, count in self.finished.items()}
        values["http_requests"] = {labels: float(count) for labels, count in self.http.items()}
        return values

    def _family(self, row: Row, name: str, values: dict[str, Values]) -> Metric:
        label_names, label_values = ["model_name", "engine", *row.labels], (self.model_name, "0")
        if row.kind == "histogram":
            histogram = self._histograms[row.name]
            family = HistogramMetricFamily(name, row.help, labels=label_names)
            family.add_metric(label_values, histogram.cumulative(), histogram.total)
            return family
        kind = GaugeMetricFamily if row.kind == "gauge" else CounterMetricFamily
        scalar = kind(name, row.help, labels=label_names)
        for extra, value in values.get(row.name, {}).items():
            scalar.add_metric((*label_values, *extra), value)
        return scalar
