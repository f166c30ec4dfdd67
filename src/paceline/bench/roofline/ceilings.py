"""The machine's ceilings, measured beside what is held against them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from paceline.bench.report import summary_json
from paceline.bench.roofline.multiply import Way, ways
from paceline.bench.roofline.reading import last_level_cache, read_loop
from paceline.bench.roofline.work import Ceilings
from paceline.bench.sections import Table
from paceline.bench.statistics import Summary, quantile, summarize

READS = 9  # of one sample; the median counts: the first ones find threads asleep
MOST_READ = 1 << 30


def memory_size() -> int:
    """Bytes whose reading no cache shortens much: four times the largest cache, within reason."""
    return min(MOST_READ, max(128 << 20, 4 * last_level_cache()))


@dataclass(slots=True)
class CeilingMeter:
    """Samples of the bandwidth of memory and of the rate of each arithmetic; their medians are the ceilings, so that a
    machine that is slower now than a minute ago is judged by what it had over the whole run."""

    size: int
    read: Callable[[], float]
    ways: dict[str, list[Way]]
    bandwidths: list[float] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)
    fastest: dict[str, list[str]] = field(default_factory=dict)  # way that was the fastest in each sample

    def sample(self) -> None:
        """Takes one sample of everything."""
        self.bandwidths.append(self.size / quantile([self.read() for _ in range(READS)], 0.5))
        for arithmetic, known in self.ways.items():
            rate, name = max((way.rate(), way.name) for way in known)
            self.rates.setdefault(arithmetic, []).append(rate)
            self.fastest.setdefault(arithmetic, []).append(name)

    def clear(self) -> None:
        """Forgets the samples of the warm-up."""
        self.bandwidths.clear()
        self.rates.clear()
        self.fastest.clear()

    @property
    def ceilings(self) -> Ceilings:
        rates = {arithmetic: quantile(values, 0.5) for arithmetic, values in self.rates.items()}
        return Ceilings(quantile(self.bandwidths, 0.5), rates)

    def table(self) -> Table:
        """The ceilings, and how they were reached."""
        rows: list[list[str | float]] = [
            ["reading memory", *_in_giga(summarize(self.bandwidths)), "GB/s", f"{self.size / 1e6:.0f} MB, all threads"]
        ]
        for arithmetic, values in self.rates.items():
            names = self.fastest[arithmetic]
            how = max(dict.fromkeys(names), key=names.count)
            rows.append([f"multiplying, {arithmetic}", *_in_giga(summarize(values)), "GOP/s", how])
        return Table("The machine's ceilings", ("ceiling", "median", "q1", "q3", "unit", "how"), rows)

    def data(self) -> dict[str, object]:
        """For the JSON file: bytes and operations a second, every sample."""
        return {
            "bandwidth": summary_json(self.bandwidths),
            "rates": {arithmetic: summary_json(values) for arithmetic, values in self.rates.items()},
            "fastest": dict(self.fastest),
        }


def open_meter(threads: int, arithmetics: Iterable[str], size: int | None = None) -> CeilingMeter:
    """A meter for ``threads`` threads. ``size``: bytes of the memory that is read; None: what no cache holds."""
    size = size or memory_size()
    return CeilingMeter(
        size, read_loop(size, threads), {name: ways(name, threads) for name in sorted(set(arithmetics))}
    )


def _in_giga(summary: Summary) -> tuple[float, float, float]:
    return summary.median / 1e9, summary.q1 / 1e9, summary.q3 / 1e9
