"""Counters over engine restarts."""

from __future__ import annotations

from paceline.engine.messages import DrafterStats, EngineStats
from paceline.server.engine_counters import add_counters


def suffix(adapter: str = "", drafts: int = 0, accepted: list[int] | None = None) -> DrafterStats:
    return DrafterStats(drafter="suffix", adapter=adapter, drafts=drafts, accepted_per_position=accepted or [])


def test_counters_are_added_and_gauges_are_not() -> None:
    earlier = EngineStats(running=3, kv_blocks_total=9, steps=10, step_seconds=0.5, draft_tokens=7)
    whole = add_counters(EngineStats(running=1, kv_blocks_total=8, steps=2, step_seconds=0.25), earlier)
    assert (whole.running, whole.kv_blocks_total) == (1, 8)
    assert (whole.steps, whole.step_seconds, whole.draft_tokens) == (12, 0.75, 7)


def test_drafters_and_decisions_are_added_by_name() -> None:
    earlier = EngineStats(
        decisions={"none": 4, "suffix": 1}, drafters=[suffix(drafts=5, accepted=[3, 1]), suffix("ner", drafts=2)]
    )
    new = EngineStats(decisions={"suffix": 2, "ngram": 3}, drafters=[suffix(drafts=1, accepted=[1, 1, 1])])
    whole = add_counters(new, earlier)
    assert whole.decisions == {"none": 4, "suffix": 3, "ngram": 3}
    assert whole.drafters == [suffix(drafts=6, accepted=[4, 2, 1]), suffix("ner", drafts=2)]
    assert new.drafters == [suffix(drafts=1, accepted=[1, 1, 1])], "what the engine said is not changed"


def test_every_field_of_the_statistics_can_be_added() -> None:
    stats = EngineStats(drafters=[suffix(drafts=1)], decisions={"none": 1})
    assert add_counters(add_counters(stats, stats), EngineStats()) == add_counters(stats, stats)
