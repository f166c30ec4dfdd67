"""The real engine with step costs that make drafts pay on any machine, however busy it was when they were measured."""

from __future__ import annotations

from paceline.engine.engine import Engine
from paceline.engine.factory import build_in_own_process
from paceline.engine.messages import EngineReady
from paceline.engine.options import EngineOptions
from paceline.speculation.controller import Controller
from paceline.speculation.costs import StepCosts

FACTORY = "eager_engine:build"


def build(options: EngineOptions) -> tuple[Engine, EngineReady]:
    engine, ready = build_in_own_process(options)
    assert engine.drafting is not None
    controller = engine.drafting.controller
    assert isinstance(controller, Controller)
    controller.costs = StepCosts([(1, 1e-3), (64, 1.1e-3)])
    return engine, ready
