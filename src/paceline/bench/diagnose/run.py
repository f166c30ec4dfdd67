"""Looks at a server: its metrics over a while, then a few requests of one's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from paceline.bench.diagnose import local
from paceline.bench.diagnose.metrics import MetricsError, Reading, read_metrics, traffic_between
from paceline.bench.diagnose.observations import Observations
from paceline.bench.diagnose.probes import Prober
from paceline.bench.endpoint import Endpoint
from paceline.bench.statistics import quantile

READING_SECONDS = 0.5  # between readings of /metrics
NAP = 0.01  # seconds of the sleeps whose lateness is measured

Say = Callable[[str], None]


@dataclass(slots=True)
class Look:
    """One look at a server of ``seconds``. ``model``: who is asked; None: the first. ``probing``: whether requests are
    sent. They are sent after the look, so that it sees the users' load only."""

    endpoint: Endpoint
    seconds: float
    model: str | None = None
    probing: bool = True
    say: Say = print
    notes: list[str] = field(default_factory=list)

    def run(self) -> Observations:
        """Raises ``EndpointError`` when nobody answers at all."""
        readings = self._first_reading()
        kind = readings[0].kind if readings else "other"
        processors = local.watch(self.endpoint.host, self.endpoint.port)
        late: list[float] = []
        self.say(f"watching {self.endpoint.url} for {self.seconds:g} s")
        end = time.perf_counter() + self.seconds
        while (left := end - time.perf_counter()) > 0:
            late += _naps(min(READING_SECONDS, left))
            if readings:
                readings.append(self._read())
        seen = None if processors is None else processors.stop()
        probes = None
        if self.probing:
            self.say("sending a few requests")
            probes = Prober(self.endpoint, self.model, {} if kind == "other" else {"ignore_eos": True}).run()
        return Observations(
            kind=kind,
            lag=quantile(late, 0.9),
            traffic=traffic_between(readings) if len(readings) > 1 and readings[0].values else None,
            probes=probes,
            local=seen,
        )

    def _first_reading(self) -> list[Reading]:
        status, text = self.endpoint.get("/metrics")
        if status != 200:
            self.notes.append(f"{self.endpoint.url}/metrics answered {status}")
            return []
        try:
            return [read_metrics(text)]
        except MetricsError as error:
            self.notes.append(str(error))
            return []

    def _read(self) -> Reading:
        return read_metrics(self.endpoint.get("/metrics")[1])


def _naps(seconds: float) -> list[float]:
    """Sleeps for ``seconds`` in small pieces; by how many seconds each piece was too long."""
    late = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        nap = min(NAP, end - began)
        time.sleep(nap)
        late.append(max(0.0, time.perf_counter() - began - nap))
    return late or [0.0]
