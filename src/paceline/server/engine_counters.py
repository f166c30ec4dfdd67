"""Counters of engines that came one after the other, as if there had been one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from paceline.engine.messages import AdapterStats, DrafterStats, EngineStats

_GAUGES = ("running", "waiting", "kv_blocks_total", "kv_blocks_used")
_COUNTERS = tuple(name for name in EngineStats.__struct_fields__ if name not in _GAUGES)
_DRAFTER_COUNTERS = tuple(name for name in DrafterStats.__struct_fields__ if name not in ("drafter", "adapter"))
_ADAPTER_COUNTERS = tuple(
    name for name in AdapterStats.__struct_fields__ if name not in ("adapter", "running", "waiting")
)
_LISTS = ("drafters", "adapters")


def add_counters(stats: EngineStats, earlier: EngineStats) -> EngineStats:
    """``stats`` with the counters of ``earlier`` engines added; gauges as they are."""
    sums = {name: _sum(getattr(stats, name), getattr(earlier, name)) for name in _COUNTERS if name not in _LISTS}
    return msgspec.structs.replace(
        stats,
        **sums,
        drafters=_sum_drafters(stats.drafters, earlier.drafters),
        adapters=_sum_adapters(stats.adapters, earlier.adapters),
    )


def _sum(new: Any, old: Any) -> Any:
    """Of numbers, of lists entry by entry, of mappings key by key."""
    if isinstance(new, Mapping):
        return {key: _sum(new.get(key, 0), old.get(key, 0)) for key in {**old, **new}}
    if isinstance(new, list):
        return [_sum(a, b) for a, b in zip_longest(new, old, fillvalue=0)]
    return new + old


def _sum_drafters(new: Sequence[DrafterStats], old: Sequence[DrafterStats]) -> list[DrafterStats]:
    """Drafter and adapter by drafter and adapter; an adapter that only an earlier engine served stays counted."""
    sums = {(entry.drafter, entry.adapter): entry for entry in old}
    for entry in new:
        key = (entry.drafter, entry.adapter)
        if (earlier := sums.get(key)) is not None:
            added = {name: _sum(getattr(entry, name), getattr(earlier, name)) for name in _DRAFTER_COUNTERS}
            entry = msgspec.structs.replace(entry, **added)
        sums[key] = entry
    return list(sums.values())


def _sum_adapters(new: Sequence[AdapterStats], old: Sequence[AdapterStats]) -> list[AdapterStats]:
    """Adapter by adapter. Of one that only an earlier engine served nothing runs or waits."""
    sums = {entry.adapter: msgspec.structs.replace(entry, running=0, waiting=0) for entry in old}
    for entry in new:
        if (earlier := sums.get(entry.adapter)) is not None:
            added = {name: _sum(getattr(entry, name), getattr(earlier, name)) for name in _ADAPTER_COUNTERS}
            entry = msgspec.structs.replace(entry, **added)
        sums[entry.adapter] = entry
    return list(sums.values())
