"""The model drafter in the engine: texts never change, and a target that drafts for itself is always right."""

from __future__ import annotations

import functools
from collections.abc import Sequence as Seq
from pathlib import Path

import pytest
from fake_drafters import Answers, TakesAll
from fake_model import MACHINE, serve

from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.engine.config import EngineConfig
from paceline.engine.engine import Engine
from paceline.engine.messages import Request
from paceline.errors import PacelineError
from paceline.models.loading import LoadedModel, load_model
from paceline.sampling.params import SamplingParams
from paceline.speculation.draft import Draft
from paceline.speculation.drafters import model as model_drafter
from paceline.speculation.drafters.base import Progress, SequenceView
from paceline.speculation.drafters.model import ModelDrafter

TARGET = "gemma3_text"  # two cache groups
LENGTH = 3


class ShortDrafts:
    """The model drafter with at most ``LENGTH`` tokens a draft, its cache checked after every call."""

    name = "model"
    cheap = False
    layers = ()

    def __init__(self, drafter: ModelDrafter) -> None:
        self.drafter = drafter

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        drafts = self.drafter.propose(sequences, [min(LENGTH, length) for length in lengths])
        self.drafter.check_integrity()
        return drafts

    def observe(self, progress: Seq[Progress]) -> None:
        self.drafter.observe(progress)

    def forget(self, sequence: SequenceView) -> None:
        self.drafter.forget(sequence)


def requests() -> list[Request]:
    """Greedy ones of several lengths, one with three outputs."""

    def request(name: str, length: int, **params: object) -> Request:
        return Request(
            request_id=name,
            prompt_ids=[(length * 31 + 7 * i + i * i * length) % 150 + 3 for i in range(length)],
            params=SamplingParams(**{"seed": 3, "temperature": 0.0, "ignore_eos": True, "max_tokens": 24, **params}),
            arrival_time=0.0,
        )

    return [request("short", 5), request("long", 90), request("three", 38, n=3), request("other", 26, max_tokens=40)]


@functools.cache
def loaded(name: str, folder: Path) -> tuple[LoadedModel, Backend]:
    try:
        backend = get_backend("torch") if name == "torch" else get_backend(name, threads=2)
    except PacelineError as error:
        pytest.skip(str(error))
    return load_model(folder, backend), backend


@functools.cache
def answers(name: str, folder: Path) -> Answers:
    """Texts without drafts."""
    model, backend = loaded(name, folder)
    engine = Engine(model, backend, EngineConfig(kv_blocks=64), limits=MACHINE)
    return {key: outcome.token_ids for key, outcome in serve(engine, *requests()).items()}


@pytest.fixture(params=["torch", "cpu"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _no_path_is_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models are unsure of everything."""
    monkeypatch.setattr(model_drafter, "HOPELESS", 0.0)


def serve_with(
    name: str, target: Path, draft: Path, config: dict | None = None, blocks: int = 64, **options: object
) -> tuple[Answers, Engine, ShortDrafts]:
    model, backend = loaded(name, target)
    own = backend.sibling()
    draft_model = load_model(draft, own)
    groups = draft_model.spec.cache_spec().num_groups
    drafter = ShortDrafts(ModelDrafter(draft_model, own, [blocks] * groups, 8, **options))
    wishes = EngineConfig(**{"kv_blocks": 64, **(config or {})})
    engine = Engine(model, backend, wishes, controller=TakesAll(drafter), limits=MACHINE)
    texts = {key: outcome.token_ids for key, outcome in serve(engine, *requests()).items()}
    return texts, engine, drafter


def test_a_target_that_drafts_for_itself_is_always_right(name: str, tiny_checkpoint) -> None:
    folder = tiny_checkpoint(TARGET)
    texts, engine, drafter = serve_with(name, folder, folder)
    assert texts == answers(name, folder)
    stats = engine.stats()
    assert stats.accepted_tokens == stats.draft_tokens > 60
    assert drafter.drafter._cache.cache.num_used_blocks == 0, "finished sequences leave nothing"


def test_another_model_is_seldom_right_and_changes_no_text(name: str, tiny_checkpoint) -> None:
    target = tiny_checkpoint(TARGET)
    texts, engine, _ = serve_with(name, target, tiny_checkpoint("smollm2"))
    assert texts == answers(name, target)
    stats = engine.stats()
    assert stats.draft_tokens > 60 and stats.accepted_tokens < 0.3 * stats.draft_tokens


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"kv_blocks": 10, "max_rows": 24}, {}),  # the target preempts
        ({}, {"blocks": 9}),  # the drafter runs out of blocks
        ({}, {"max_rows": 16, "catch_up_rows": 7}),  # prompts in small chunks
        ({"max_running": 2}, {}),
    ],
    ids=str,
)
def test_texts_and_acceptance_survive_shortage(config: dict, options: dict, name: str, tiny_checkpoint) -> None:
    folder = tiny_checkpoint(TARGET)
    texts, engine, _ = serve_with(name, folder, folder, config, **options)
    assert texts == answers(name, folder)
    stats = engine.stats()
    assert stats.accepted_tokens == stats.draft_tokens > 20
    if "kv_blocks" in config:
        assert stats.preemptions > 0
