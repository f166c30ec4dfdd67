"""Merged drafts in the engine: no text changes, and each token counts for who proposed it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

import pytest
from fake_drafters import Answers, ScriptedDrafter, TreeDrafter
from fake_model import make_engine, make_request, prompt_of, serve

from paceline.engine.engine import Engine
from paceline.engine.messages import Request
from paceline.sampling.speculative import Speculative
from paceline.speculation.controller import Controller
from paceline.speculation.costs import StepCosts
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Drafter

FREE_ROWS = [(1, 3.3e-3), (150, 3.3e-3), (512, 11.3e-3)]  # seconds of a step by rows, as on a large GPU


def requests() -> list[Request]:
    report = Speculative(report=True)
    wishes = {"max_tokens": 60, "ignore_eos": True, "speculative": report}
    choice = {"choice": ("a", "b"), "choice_ids": ((5, 6, 7, 8), (5, 6, 9, 10, 11))}
    return [
        make_request("greedy", prompt_of(20), **wishes),
        make_request("sampled", prompt_of(21), **{**wishes, "temperature": 1.0, "n": 3}),
        make_request("penalties", prompt_of(22), **{**wishes, "temperature": 0.7, "frequency_penalty": 0.8}),
        make_request("choice", prompt_of(12), **{**wishes, "max_tokens": 12, "ignore_eos": False}, **choice),
    ]


def engine_with(drafters: Seq[Drafter], windows: tuple[int, ...]) -> Engine:
    engine, _ = make_engine(windows, drafter=drafters[0])
    assert engine.drafting is not None
    engine.drafting.controller = Controller(drafters, StepCosts(FREE_ROWS))
    return engine


def drafters_of(answers: Answers) -> list[Drafter]:
    first, second = ScriptedDrafter(answers, 6, 0.2), ScriptedDrafter(answers, 5, 0.25)
    third = TreeDrafter(answers, 3, 0.2)
    first.name, second.name, third.name = "first", "second", "third"
    made: list[Drafter] = [first, second, third]
    for number, drafter in enumerate(made):
        drafter.random.seed(number)
        plain = drafter.draft
        drafter.draft = lambda one, plain=plain, name=drafter.name: _named(plain(one), name)
    return made


def _named(draft: Draft | None, name: str) -> Draft | None:
    return None if draft is None else replace(draft, drafter=name)


@pytest.mark.parametrize("windows", [(0,), (0, 24)], ids=str)
def test_texts_are_those_without_drafts_and_every_token_has_its_proposer(windows: tuple[int, ...]) -> None:
    plain, _ = make_engine(windows)
    answers = {key: outcome.token_ids for key, outcome in serve(plain, *requests()).items()}
    engine = engine_with(drafters_of(answers), windows)
    outcomes = serve(engine, *requests())
    assert {key: outcome.token_ids for key, outcome in outcomes.items()} == answers

    stats = engine.stats()
    counted = {entry.drafter: entry for entry in stats.drafters}
    assert set(counted) == {"first", "second", "third"}
    assert sum(entry.draft_tokens for entry in counted.values()) == stats.draft_tokens
    assert sum(entry.accepted_tokens for entry in counted.values()) == stats.accepted_tokens
    for entry in counted.values():
        assert entry.accepted_tokens == sum(entry.accepted_per_position) > 0
        assert all(a <= d for a, d in zip(entry.accepted_per_position, entry.drafted_per_position, strict=True))
    steps = [delta for outcome in outcomes.values() for delta in outcome.deltas if delta.speculation]
    assert sum(len(delta.speculation.sources) for delta in steps) == stats.accepted_tokens
    for name, entry in counted.items():
        assert sum(delta.speculation.sources.count(name) for delta in steps) == entry.accepted_tokens
        assert sum(delta.speculation.drafted.get(name, 0) for delta in steps) == entry.draft_tokens
    assert any(len(set(delta.speculation.sources)) > 1 for delta in steps), "one path, two proposers"
    for line in engine.speculation_reliability():
        assert 0.0 <= line.predicted <= 1.0 and 0.0 <= line.realised <= 1.0
