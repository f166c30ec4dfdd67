"""What the load generator is told: where to send which requests, and when. JSON, so that it can be kept and rerun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request. ``at``: seconds from the start of the point (open loop; without meaning in a closed one). ``model``:
    who is to answer, for the record."""

    at: float
    model: str
    path: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """One point's load on the server at ``host``:``port``.

    ``concurrency`` None: an open loop, each request is sent at its time whatever became of earlier ones. Otherwise a
    closed loop: so many places, a place sends the next request when its last one ended, none after ``duration``
    seconds. ``timeout``: seconds that a request may take. ``drain``: seconds that open requests have after the last one
    was sent; then they are cut off, as errors. ``warm_up``: sent one after the other before the start, not recorded.
    """

    host: str
    port: int
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    requests: list[PlannedRequest] = field(default_factory=list)
    warm_up: list[PlannedRequest] = field(default_factory=list)
    concurrency: int | None = None
    duration: float | None = None
    timeout: float = 120.0
    drain: float = 60.0

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else than a plan."""
        values = json.loads(text)
        for name in ("requests", "warm_up"):
            values[name] = [PlannedRequest(**request) for request in values.get(name, ())]
        return cls(**values)
