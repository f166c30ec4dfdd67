"""What the engine process tells after each step."""

from __future__ import annotations

import msgspec
import pytest

from paceline.engine import process
from paceline.engine.messages import DrafterStats, EngineStats, StepReport
from paceline.engine.process import EngineLoop


class Steps:
    """An engine with work, whose counters name ``count`` adapters."""

    def __init__(self, count: int) -> None:
        drafters = [DrafterStats(drafter="suffix", adapter=str(i)) for i in range(count)]
        self.counters = EngineStats(drafters=drafters, decisions={"suffix": 1})
        self.work = True

    def has_work(self) -> bool:
        return self.work

    def step(self) -> StepReport:
        self.counters.steps += 1
        return StepReport(deltas=[], stats=self.counters)


class Wire:
    def __init__(self) -> None:
        self.sent: list[StepReport] = []
        self.soon = False

    def poll(self, milliseconds: int) -> bool:
        return self.soon

    def recv(self, flags: int) -> bytes:
        raise process.zmq.Again

    def send(self, frame: bytes) -> None:
        self.sent.append(msgspec.msgpack.decode(frame, type=StepReport))


def told(count: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Steps, EngineLoop, list[bool]]:
    clock = iter(range(1000))
    monkeypatch.setattr(process.time, "monotonic", lambda: 0.03 * next(clock))
    engine, wire = Steps(count), Wire()
    loop = EngineLoop(engine, wire)  # type: ignore[arg-type]
    for _ in range(steps):
        loop.turn()
    assert [report.stats.steps for report in wire.sent if report.stats] == list(range(1, steps + 1))
    return engine, loop, [bool(report.stats and report.stats.drafters) for report in wire.sent]


def test_counters_of_few_drafters_come_with_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(3, 5, monkeypatch)[2] == [True] * 5


def test_counters_of_many_come_now_and_then_and_when_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, loop, seen = told(50, 9, monkeypatch)
    assert seen == [True, False, False, False, True, False, False, False, True]
    assert len(engine.counters.drafters) == 50, "the engine's own counters are not touched"
    report = engine.step()
    engine.work = False
    loop._thin_out(report)
    assert report.stats is not None and report.stats.drafters


def test_memory_is_given_back_once_when_there_is_nothing_to_do_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(process, "give_back_memory", lambda: given.append(len(given)))
    engine, wire = Steps(1), Wire()
    loop = EngineLoop(engine, wire)  # type: ignore[arg-type]
    loop.turn()
    assert not given, "in the middle of work"
    engine.work = False
    loop.turn()
    loop.turn()
    assert given == [0]
    engine.work = wire.soon = True
    loop.turn()
    engine.work = False
    loop.turn()
    assert given == [0], "something came soon"
