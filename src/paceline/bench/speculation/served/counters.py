"""vLLM's counters about drafts in the text of ``/metrics``, which Paceline has, too."""

from __future__ import annotations

import re

from paceline.bench.metrics_text import samples
from paceline.bench.speculation.step_counts import StepCounts

PREFIX = "vllm:spec_decode_num_"
_POSITION = re.compile(r'\bposition="(\d+)"')


def read_step_counts(text: str) -> StepCounts | None:
    """Sums over all label sets (several engines behind one address); None for a server that does not count drafts.

    Raises ``ValueError`` for a sample that is no number.
    """
    totals = {"drafts": 0.0, "draft_tokens": 0.0, "accepted_tokens": 0.0}
    positions: dict[int, float] = {}
    found = False
    for sample in samples(text):
        if not sample.name.startswith(PREFIX):
            continue
        name = sample.name.removeprefix(PREFIX).removesuffix("_total")
        if name in totals:
            totals[name] += float(sample.value)
            found = True
        elif name == "accepted_tokens_per_pos" and (position := _POSITION.search(sample.labels)):
            positions[int(position[1])] = positions.get(int(position[1]), 0.0) + float(sample.value)
    if not found:
        return None
    per_position = [round(positions.get(i, 0.0)) for i in range(max(positions, default=-1) + 1)]
    drafts, drafted, accepted = (round(total) for total in totals.values())
    return StepCounts(drafts, drafted, accepted, per_position)


def is_paceline(text: str) -> bool:
    """Whether these are the metrics of a Paceline server."""
    return any(line.startswith("paceline:") for line in text.splitlines())
