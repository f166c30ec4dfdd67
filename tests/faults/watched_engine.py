"""The real engine, which also reports how many sequences controller and drafters know: ``decisions["kept"]``."""

from __future__ import annotations

from paceline.engine.engine import Engine
from paceline.engine.factory import build_in_own_process
from paceline.engine.messages import EngineReady, EngineStats
from paceline.engine.options import EngineOptions
from paceline.speculation.controller import Controller
from paceline.speculation.drafters.suffix import SuffixDrafter


def build(options: EngineOptions) -> tuple[Engine, EngineReady]:
    engine, ready = build_in_own_process(options)
    assert engine.drafting is not None
    controller = engine.drafting.controller
    assert type(controller) is Controller
    (suffix,) = (drafter for drafter in controller._drafters if isinstance(drafter, SuffixDrafter))
    plain = engine.stats

    def stats() -> EngineStats:
        found = plain()
        found.decisions["kept"] = len(controller._tracks) + len(suffix._known) + suffix._index.num_sequences
        return found

    engine.stats = stats  # type: ignore[method-assign]
    return engine, ready
