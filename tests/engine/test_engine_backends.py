"""The engine on real backends: the text of a request is bit-identical however its rows were computed."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from fake_drafters import Answers, ScriptedDrafter, TakesAll, TreeDrafter
from fake_model import MACHINE, drain, serve

from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.engine.config import EngineConfig
from paceline.engine.engine import Engine
from paceline.engine.messages import Request
from paceline.errors import PacelineError
from paceline.models.loading import LoadedModel, load_model
from paceline.sampling.params import SamplingParams
from tiny_models import VOCABULARY

VARIANTS = ["llama", "gemma3_text"]


def prompt_of(length: int, seed: int) -> list[int]:
    return [(seed * 31 + 7 * i + i * i * seed) % (VOCABULARY - 3) + 3 for i in range(length)]


def requests() -> list[Request]:
    shared = prompt_of(21, 1)

    def request(name: str, prompt: list[int], **params: object) -> Request:
        return Request(
            request_id=name,
            prompt_ids=prompt,
            params=SamplingParams(seed=3, ignore_eos=True, **params),
            arrival_time=0.0,
        )

    return [
        request("greedy", shared + prompt_of(5, 2), temperature=0.0, max_tokens=24),
        request("sampled", shared + prompt_of(2, 3), temperature=1.0, max_tokens=14, n=2),
        request("long", prompt_of(40, 4), temperature=0.7, top_p=0.95, max_tokens=10),
    ]


@functools.cache
def loaded(name: str, folder: Path) -> tuple[LoadedModel, Backend]:
    try:
        backend = get_backend("torch") if name == "torch" else get_backend(name, threads=2)
    except PacelineError as error:
        pytest.skip(str(error))
    return load_model(folder, backend), backend


class Case:
    """A model on a backend, and the texts of ``requests`` one at a time and without anything that may matter."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model, self.backend = loaded(name, folder)
        self.answers: Answers = {}
        for request in requests():
            engine = self.engine(prefix_cache=False)
            self.answers |= {key: outcome.token_ids for key, outcome in serve(engine, request).items()}

    def engine(self, drafter: object = None, **config: object) -> Engine:
        wishes = EngineConfig(**{"kv_blocks": 64, **config})
        controller = None if drafter is None else TakesAll(drafter)
        return Engine(self.model, self.backend, wishes, controller=controller, limits=MACHINE)

    def texts(self, engine: Engine) -> Answers:
        return {key: outcome.token_ids for key, outcome in serve(engine, *requests()).items()}


@pytest.fixture(scope="module", params=[(b, v) for b in ("torch", "cpu") for v in VARIANTS], ids="-".join)
def case(request: pytest.FixtureRequest, tiny_checkpoint) -> Case:
    backend, variant = request.param
    return Case(backend, tiny_checkpoint(variant))


@pytest.mark.parametrize(
    "config",
    [{}, {"max_rows": 3}, {"max_rows": 32, "prefix_cache": False}, {"max_rows": 19, "kv_blocks": 4}],
    ids=lambda config: ",".join(f"{name}={value}" for name, value in config.items()) or "default",
)
def test_texts_do_not_depend_on_chunks_company_or_preemption(case: Case, config: dict) -> None:
    engine = case.engine(**config)
    assert case.texts(engine) == case.answers
    if "kv_blocks" in config:
        assert engine.stats().preemptions > 0


def test_texts_do_not_depend_on_what_the_prefix_cache_holds(case: Case) -> None:
    engine = case.engine()
    assert case.texts(engine) == case.answers
    assert case.texts(engine) == case.answers
    assert engine.stats().prefix_cache_hits > 60


@pytest.mark.parametrize("error_rate", [0.0, 0.3, 1.0])
def test_texts_do_not_depend_on_drafts(case: Case, error_rate: float) -> None:
    engine = case.engine(ScriptedDrafter(case.answers, 4, error_rate, VOCABULARY))
    assert case.texts(engine) == case.answers
    stats = engine.stats()
    assert stats.draft_tokens > 0 and (stats.accepted_tokens > 0) == (error_rate < 1.0)


def test_texts_do_not_depend_on_token_trees(case: Case) -> None:
    engine = case.engine(TreeDrafter(case.answers, 3, 0.0, VOCABULARY))
    assert case.texts(engine) == case.answers
    assert engine.stats().accepted_tokens > 10


def test_a_restarted_engine_continues_identically(case: Case) -> None:
    (request, *_) = requests()
    whole = case.answers["greedy", 0]
    request.outputs = [whole[:11]]
    engine = case.engine()
    engine.add(request)
    assert drain(engine)["greedy", 0].token_ids == whole[11:]
