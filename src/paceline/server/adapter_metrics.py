"""Values of the metrics about adapters."""

from __future__ import annotations

from paceline.engine.messages import EngineStats
from paceline.server.drafter_metrics import Values

_FIELDS = {
    "adapter_requests": "requests",
    "adapter_generation_tokens": "generation_tokens",
    "adapter_requests_running": "running",
    "adapter_requests_waiting": "waiting",
    "adapter_loads": "loads",
    "adapter_evictions": "evictions",
    "adapter_load_seconds": "load_seconds",
}


def adapter_values(stats: EngineStats) -> dict[str, Values]:
    """Values by adapter, by the names of the metrics."""
    return {
        name: {(entry.adapter,): getattr(entry, field) for entry in stats.adapters} for name, field in _FIELDS.items()
    }
