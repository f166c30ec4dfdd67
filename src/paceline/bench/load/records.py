"""What is noted of each request, as the load generator writes it down: a JSON line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class RequestRecord:
    """One request. All times in seconds since the start of the point.

    ``scheduled``: when it was to be sent (closed loop: when its place became free). ``sent``: when the client began to
    send it, connecting included, so that a server that accepts late is not faster for it. ``arrivals``: of chunks, from
    the first one with text. ``ended``: last arrival, or when the error was known. ``counted``: the server told its
    number of tokens; otherwise ``tokens`` is the number of chunks. ``text``: a hash of the answer's text.
    """

    index: int
    model: str
    scheduled: float
    sent: float = 0.0
    connected: float | None = None
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    counted: bool = False
    error: str = ""
    text: str = ""

    @property
    def late(self) -> float:
        """Seconds by which the client was late."""
        return self.sent - self.scheduled

    def line(self) -> str:
        """The record as a JSON line; times to the microsecond."""
        values = asdict(self)
        for name, value in values.items():
            if isinstance(value, float):
                values[name] = round(value, 6)
        values["arrivals"] = [round(arrival, 6) for arrival in self.arrivals]
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def of(cls, values: dict[str, Any]) -> RequestRecord:
        return cls(**values)


@dataclass(frozen=True, slots=True)
class ClientReport:
    """How the load generator itself did over one point.

    ``lag_p99``, ``lag_max``: seconds by which a timer of its event loop was late. ``cores``: CPU seconds / seconds.
    ``unsent``: requests that were never sent, ``stopped`` says why ("" when all were).
    """

    seconds: float
    lag_p99: float
    lag_max: float
    cores: float
    unsent: int = 0
    stopped: str = ""


def text_hash(text: str) -> str:
    """Short, and the same in every process: texts are compared, never kept."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest() if text else ""
