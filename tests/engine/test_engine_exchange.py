"""The base model's speculator is exchanged while sequences run; nobody can tell by the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_adapters import AtOnce, WhenTold
from fake_model import Outcome, collect, serve
from test_engine_turbo_adapters import World, check_nothing_is_kept, speculators_of

from paceline.engine.base_speculator import BaseSpeculator


@pytest.fixture(scope="module")
def world(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World("cpu", tiny_checkpoint("smollm2"), tmp_path_factory.mktemp("exchange"))
    made.write(made.root / "other", None, 5, (0, 2), 64)
    return made


def engine_of(world: World, executor: object):
    engine = world.drafting_engine(names="a")
    speculators_of(engine).folder = world.root / "base" / "speculator"
    engine.speculator = BaseSpeculator(speculators_of(engine))
    engine.speculator.executor = executor
    return engine


def test_texts_are_the_same_before_during_and_after(world: World) -> None:
    reader = WhenTold()
    engine = engine_of(world, reader)
    outcomes: dict[tuple[str, int], Outcome] = {}
    for request in world.requests(None, "a"):
        engine.add(request)
    for _ in range(3):
        collect(outcomes, engine.step().deltas)
    engine.use_speculator(str(world.root / "other" / "speculator"))
    report = engine.step()
    collect(outcomes, report.deltas)
    assert not report.speculator_replies and speculators_of(engine).base.positions == 3, "it is still being read"
    reader.read()
    report = engine.step()
    collect(outcomes, report.deltas)
    (reply,) = report.speculator_replies
    assert reply.error is None and reply.info.positions == speculators_of(engine).base.positions == 5
    while engine.has_work():
        collect(outcomes, engine.step().deltas)
    world.check(outcomes)
    world.check(serve(engine, *world.requests(None, "a")))
    check_nothing_is_kept(engine)


def test_the_one_of_the_start_comes_back_and_a_damaged_one_changes_nothing(world: World, tmp_path: Path) -> None:
    engine = engine_of(world, AtOnce())
    engine.use_speculator(str(tmp_path))
    (reply,) = engine.step().speculator_replies
    assert "not the folder of a speculator" in reply.error and speculators_of(engine).base.positions == 3
    engine.use_speculator(str(world.root / "other" / "speculator"))
    engine.use_speculator(None)
    replies = []
    while engine.has_work():
        replies += engine.step().speculator_replies
    assert [one.info.positions for one in replies] == [5, 3]
    world.check(serve(engine, *world.requests(None)))


def test_without_the_drafter_it_is_refused(world: World) -> None:
    engine = world.engine(None)
    engine.use_speculator("anywhere")
    (reply,) = engine.step().speculator_replies
    assert "turbo is off" in reply.error and not engine.has_work()
