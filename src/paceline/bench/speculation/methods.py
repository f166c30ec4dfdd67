"""The methods by name: what is measured when the user says no more than ``--method NAME``, and with ``--quick``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Method:
    """Defaults. ``prompts`` None: by load; 0: all; of a category in SPEED-Bench's qualitative split. ``draft_lengths``:
    None is as the engine decides."""

    title: str
    loads: Sequence[int]
    rounds: int
    max_tokens: int
    temperatures: Sequence[float]
    prefix_cache: bool
    draft_lengths: Sequence[int | None]
    prompts: int | None


SETS, SPEC_BENCH, SPEED_BENCH = "sets", "spec-bench", "speed-bench"

METHODS: Mapping[str, Method] = {
    SETS: Method("Speculation: the same prompts without drafts and with them", (1, 8, 32), 2, 128, (0.0,), True,
                 (None,), None),
    SPEC_BENCH: Method("Spec-Bench (hemingkx, 2024)", (1,), 1, 1024, (0.0,), True, (None,), 0),
    SPEED_BENCH: Method("SPEED-Bench (arXiv 2604.09557), on splits built from the data folder", (32,), 1, 4096,
                        (0.0, 1.0), False, (3,), None),
}  # fmt: skip
QUICK = {
    SETS: replace(METHODS[SETS], loads=(1,), rounds=1, max_tokens=48, prompts=4),
    SPEC_BENCH: replace(METHODS[SPEC_BENCH], max_tokens=64, prompts=12),
    SPEED_BENCH: replace(METHODS[SPEED_BENCH], loads=(4,), max_tokens=64, temperatures=(0.0,), prompts=2),
}
