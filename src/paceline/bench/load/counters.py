"""A server's own counters from its ``/metrics``: speculation, prefix cache, KV use and queue, by Paceline's or vLLM's
names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from paceline.bench.metrics_text import samples

#: What is read, and the names that servers give it; the first name that is there counts.
NAMES: Mapping[str, tuple[str, ...]] = {
    "drafts": ("paceline:drafts_total", "vllm:spec_decode_num_drafts_total"),
    "draft_tokens": ("paceline:draft_tokens_total", "vllm:spec_decode_num_draft_tokens_total"),
    "accepted_tokens": ("paceline:accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"),
    "prefix_queries": ("paceline:prefix_cache_queries_total", "vllm:prefix_cache_queries_total"),
    "prefix_hits": ("paceline:prefix_cache_hits_total", "vllm:prefix_cache_hits_total"),
    "preemptions": ("paceline:preemptions_total", "vllm:num_preemptions_total"),
    "waiting": ("paceline:num_requests_waiting", "vllm:num_requests_waiting"),
    "kv_usage": ("paceline:kv_cache_usage", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
}
_SHARES = frozenset(NAMES["kv_usage"])  # 0 to 1
_WANTED = {name for names in NAMES.values() for name in names}


def read_counters(text: str) -> dict[str, float]:
    """Values by the keys of ``NAMES``: the sum over label sets (several engines behind one address), the largest one
    for a share. What the server does not have is missing."""
    told: dict[str, list[float]] = {}
    for sample in samples(text):
        if sample.name in _WANTED:
            try:
                value = float(sample.value)
            except ValueError:
                continue  # not a number: not Prometheus' format
            told.setdefault(sample.name, []).append(value)
    values = {name: max(found) if name in _SHARES else sum(found) for name, found in told.items()}
    present = {key: next((name for name in names if name in values), None) for key, names in NAMES.items()}
    return {key: values[name] for key, name in present.items() if name is not None}


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What the server's counters say about one point; None: it does not tell. ``acceptance_length`` is 1 + accepted
    tokens / drafts: mean tokens of a step that verified a draft."""

    drafts: float | None = None
    draft_tokens: float | None = None
    accepted_tokens: float | None = None
    prefix_hit_rate: float | None = None
    preemptions: float | None = None
    peak_waiting: float | None = None
    peak_kv_usage: float | None = None

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted / verified draft tokens."""
        if not self.draft_tokens or self.accepted_tokens is None:
            return None
        return self.accepted_tokens / self.draft_tokens

    @property
    def acceptance_length(self) -> float | None:
        if not self.drafts or self.accepted_tokens is None:
            return None
        return 1 + self.accepted_tokens / self.drafts


def server_report(
    before: Mapping[str, float], after: Mapping[str, float], during: Iterable[Mapping[str, float]]
) -> ServerReport:
    """From readings before, after and during a point. A counter that fell (the server was started anew) is not told."""

    def difference(key: str) -> float | None:
        if key not in before or key not in after or after[key] < before[key]:
            return None
        return after[key] - before[key]

    def peak(key: str) -> float | None:
        return max((reading[key] for reading in (*during, after) if key in reading), default=None)

    during = list(during)
    queries, hits = difference("prefix_queries"), difference("prefix_hits")
    return ServerReport(
        drafts=difference("drafts"),
        draft_tokens=difference("draft_tokens"),
        accepted_tokens=difference("accepted_tokens"),
        prefix_hit_rate=hits / queries if queries and hits is not None else None,
        preemptions=difference("preemptions"),
        peak_waiting=peak("waiting"),
        peak_kv_usage=peak("kv_usage"),
    )
