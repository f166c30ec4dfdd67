"""From records of requests to the figures of a point. Pure arithmetic; definitions in docs/benchmarks.md.

Latencies are those of requests without an error; how many had one stands beside them. Seconds throughout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from paceline.bench.load.records import RequestRecord
from paceline.bench.statistics import quantile
from paceline.errors import PacelineError

PERCENTILES = (50, 90, 95, 99)


class GoodputError(PacelineError):
    """A latency target that is not of its form."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Percentiles with linear interpolation between neighbours."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    low: float
    high: float
    count: int

    def at(self, percentile: int) -> float:
        return float(getattr(self, f"p{percentile}"))


def distribution(values: Sequence[float]) -> Distribution | None:
    """None of no values."""
    if not values:
        return None
    p50, p90, p95, p99 = (quantile(values, percentile / 100) for percentile in PERCENTILES)
    return Distribution(p50, p90, p95, p99, sum(values) / len(values), min(values), max(values), len(values))


def ttft(record: RequestRecord) -> float:
    """From sending to the first chunk with text."""
    return record.arrivals[0] - record.sent


def e2e(record: RequestRecord) -> float:
    """From sending to the last chunk."""
    return record.arrivals[-1] - record.sent


def tpot(record: RequestRecord) -> float | None:
    """(E2E - TTFT) / (tokens - 1): a token after the first one. None for an answer of one token."""
    if record.tokens < 2:
        return None
    return (record.arrivals[-1] - record.arrivals[0]) / (record.tokens - 1)


def gaps(record: RequestRecord) -> list[float]:
    """ITL: between neighbouring chunks. A chunk may hold several tokens when drafts are accepted."""
    return [later - earlier for earlier, later in pairwise(record.arrivals)]


@dataclass(frozen=True, slots=True)
class Goodput:
    """A latency target: limits in seconds, None where there is none."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    @classmethod
    def parse(cls, text: str) -> Goodput:
        """``ttft:500,tpot:50`` in milliseconds; any of ttft, tpot, e2e. Raises ``GoodputError``."""
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition(":")
            try:
                limit = float(value)
            except ValueError:
                limit = 0.0
            if name not in ("ttft", "tpot", "e2e") or limit <= 0:
                raise GoodputError(
                    f"{part.strip()!r} is no latency target: give milliseconds as in ttft:500,tpot:50 (and e2e:2000)"
                )
            limits[name] = limit / 1e3
        return cls(**limits)

    def met(self, record: RequestRecord) -> bool:
        """Whether the request was answered inside all limits. An error never is; an answer of one token has no TPOT to
        miss."""
        if record.error:
            return False
        pairs = ((self.ttft, ttft(record)), (self.tpot, tpot(record)), (self.e2e, e2e(record)))
        return all(limit is None or value is None or value <= limit for limit, value in pairs)

    def share(self, records: Sequence[RequestRecord], unsent: int = 0) -> float | None:
        """Requests inside the limits / all requests, errors and those never sent (``unsent``) included."""
        total = len(records) + unsent
        return sum(map(self.met, records)) / total if total else None

    def __str__(self) -> str:
        limits = (("TTFT", self.ttft), ("TPOT", self.tpot), ("E2E", self.e2e))
        return ", ".join(f"{name} <= {limit * 1e3:g} ms" for name, limit in limits if limit is not None)


@dataclass(frozen=True, slots=True)
class PointMetrics:
    """Everything that records say about one point.

    ``seconds``: from the first request sent to the last chunk of any good answer; rates are over it. ``late``: how
    late the client sent, of all requests. ``uncounted``: answers whose tokens the server did not tell.
    """

    requests: int
    completed: int
    errors: dict[str, int]
    ttft: Distribution | None
    tpot: Distribution | None
    itl: Distribution | None
    e2e: Distribution | None
    late: Distribution | None
    seconds: float
    prompt_tokens: float  # mean of a request
    output_tokens: float  # mean of a request
    output_rate: float  # output tokens / second
    token_rate: float  # prompt and output tokens / second
    request_rate: float  # good answers / second
    goodput: float | None
    max_in_flight: int
    uncounted: int


def point_metrics(records: Sequence[RequestRecord], goodput: Goodput | None = None, unsent: int = 0) -> PointMetrics:
    """The figures of one point."""
    good = [record for record in records if not record.error]
    start = min((record.sent for record in records), default=0.0)
    seconds = max((record.arrivals[-1] for record in good), default=start) - start
    prompt, output = sum(record.prompt_tokens for record in good), sum(record.tokens for record in good)

    def rate(amount: float) -> float:
        return amount / seconds if seconds > 0 else 0.0

    return PointMetrics(
        requests=len(records),
        completed=len(good),
        errors=dict(Counter(record.error for record in records if record.error).most_common()),
        ttft=distribution([ttft(record) for record in good]),
        tpot=distribution([value for record in good if (value := tpot(record)) is not None]),
        itl=distribution([gap for record in good for gap in gaps(record)]),
        e2e=distribution([e2e(record) for record in good]),
        late=distribution([record.late for record in records]),
        seconds=seconds,
        prompt_tokens=prompt / len(good) if good else 0.0,
        output_tokens=output / len(good) if good else 0.0,
        output_rate=rate(output),
        token_rate=rate(prompt + output),
        request_rate=rate(len(good)),
        goodput=goodput.share(records, unsent) if goodput is not None else None,
        max_in_flight=max_in_flight(records),
        uncounted=sum(not record.counted for record in good),
    )


def max_in_flight(records: Iterable[RequestRecord]) -> int:
    """Most requests that were open at once. One that ends when another is sent makes room for it."""
    events = sorted(event for record in records for event in ((record.sent, 1), (record.ended, -1)))
    open_now = most = 0
    for _, change in events:
        open_now += change
        most = max(most, open_now)
    return most


def dollars_per_million(dollars_per_hour: float, tokens_per_second: float) -> float | None:
    """$ for a million tokens at that rate; None when there were none."""
    return dollars_per_hour / 3600 / tokens_per_second * 1e6 if tokens_per_second > 0 else None
