"""Values of the metrics about speculation, from what the engine counts for each drafter and adapter."""

from __future__ import annotations

from collections import defaultdict

from paceline.engine.messages import EngineStats

#: Values by the labels that a metric has beside the model's.
Values = dict[tuple[str, ...], float]


def drafter_values(stats: EngineStats) -> dict[str, Values]:
    """Values of the labelled metrics by their names, and the sums over drafters and adapters that vLLM's names show.
    Positions count from 0, as vLLM's."""
    values: defaultdict[str, Values] = defaultdict(dict)
    per_position: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for entry in stats.drafters:
        labels = (entry.drafter, entry.adapter)
        values["drafter_drafts"][labels] = entry.drafts
        values["drafter_draft_tokens"][labels] = entry.draft_tokens
        values["drafter_accepted_tokens"][labels] = entry.accepted_tokens
        if entry.drafts:
            values["drafter_acceptance_length"][labels] = 1 + entry.accepted_tokens / entry.drafts
        for position, count in enumerate(entry.drafted_per_position):
            values["drafter_draft_tokens_per_position"][*labels, str(position)] = count
        for position, count in enumerate(entry.accepted_per_position):
            values["drafter_accepted_tokens_per_position"][*labels, str(position)] = count
            per_position[str(position),] += count
    values["accepted_tokens_per_position"] = dict(per_position)
    values["drafts"] = {(): sum(entry.drafts for entry in stats.drafters)}
    values["draft_decisions"] = {(drafter,): count for drafter, count in stats.decisions.items()}
    return values
