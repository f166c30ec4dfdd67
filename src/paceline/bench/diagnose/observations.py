"""Everything that a diagnosis is drawn from. What could not be seen is None."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.bench.diagnose.metrics import Kind, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """A few requests one after the other, each with a text that no cache knows; medians, in seconds.

    ``round_trip``: an answer without work. ``short_ttft``, ``long_ttft``: to the first token of prompts of
    ``short_tokens`` and ``long_tokens``. ``tpot``: a token after the first, of ``answer_tokens`` in all; None where
    answers were too short to tell.
    """

    round_trip: float
    short_ttft: float
    short_tokens: int
    long_ttft: float
    long_tokens: int
    tpot: float | None
    answer_tokens: int

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens a second, from the growth of the time to first token; None if it did not grow."""
        more = self.long_ttft - self.short_ttft
        return (self.long_tokens - self.short_tokens) / more if more > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """The machine, where the server runs on this one. ``server_cores``, ``other_cores``: kept busy by the server's
    processes, and by all others but this command. ``free_bytes``, ``total_bytes``: memory."""

    cores: int
    server_cores: float
    other_cores: float
    free_bytes: int
    total_bytes: int

    @property
    def free_cores(self) -> float:
        return max(0.0, self.cores - self.server_cores - self.other_cores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """``lag``: by how many seconds this command's own timers were late (90th percentile): it shares its machine with
    whatever else sends requests from there."""

    kind: Kind
    lag: float
    traffic: Traffic | None = None
    probes: Probes | None = None
    local: Local | None = None
