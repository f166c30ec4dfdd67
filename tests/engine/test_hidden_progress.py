"""Drafters that ask for hidden states see them once for every token that stands, whatever else the step computed."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest
import torch
from fake_drafters import ScriptedDrafter, TreeDrafter
from fake_model import serve
from test_engine_backends import VARIANTS, Case, prompt_of, requests

from paceline.engine.messages import Request
from paceline.sampling.params import SamplingParams
from paceline.speculation.drafters.base import Progress
from tiny_models import VOCABULARY

States = dict[tuple[str, int], dict[int, torch.Tensor]]


def watching(base: type[ScriptedDrafter]) -> type[ScriptedDrafter]:
    """A drafter that keeps the hidden states of layers 0 and 1, by sequence and position."""

    class Watching(base):  # type: ignore[misc, valid-type]
        layers = (0, 1)

        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            self.states: States = {}

        def observe(self, progress: Seq[Progress]) -> None:
            super().observe(progress)
            for part in progress:
                assert part.hidden is not None
                mine = self.states.setdefault(part.sequence.key, {})
                for offset, row in enumerate(part.rows):
                    assert part.first + offset not in mine or part.first == 0
                    mine[part.first + offset] = part.hidden[row].clone()

    return Watching


@pytest.fixture(scope="module", params=[(b, v) for b in ("torch", "cpu") for v in VARIANTS[:1]], ids="-".join)
def case(request: pytest.FixtureRequest, tiny_checkpoint) -> Case:
    backend, variant = request.param
    return Case(backend, tiny_checkpoint(variant))


def states(case: Case, drafter: ScriptedDrafter, **config: object) -> States:
    engine = case.engine(drafter, **config)
    assert case.texts(engine) == case.answers
    return drafter.states  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [ScriptedDrafter, TreeDrafter])
def test_every_position_has_its_state_bit_for_bit(case: Case, kind: type[ScriptedDrafter]) -> None:
    plain = states(case, watching(ScriptedDrafter)({}), prefix_cache=False)
    drafted = states(
        case,
        watching(kind)(case.answers, 3, 0.3, VOCABULARY),
        prefix_cache=False,
        max_rows=7 if kind is ScriptedDrafter else 64,
    )
    assert plain.keys() == drafted.keys()
    for key, rows in plain.items():
        assert sorted(rows) == list(range(len(rows)))  # the last token is never computed
        for position in rows.keys() & drafted[key].keys():
            assert torch.equal(rows[position], drafted[key][position])
        assert rows.keys() == drafted[key].keys()


def test_what_the_prefix_cache_holds_is_not_shown_again(case: Case) -> None:
    prompt = prompt_of(40, 9)
    request = Request(request_id="r", prompt_ids=prompt, params=SamplingParams(seed=1, max_tokens=2), arrival_time=0.0)
    drafter = watching(ScriptedDrafter)({})
    engine = case.engine(drafter)
    serve(engine, request)
    drafter.states.clear()
    drafter.observed.clear()
    serve(engine, request)
    assert min(drafter.states["r", 0]) == 32


def test_nobody_pays_for_states_that_nobody_asked_for(case: Case) -> None:
    engine = case.engine(ScriptedDrafter(case.answers, 4, 0.0, VOCABULARY))
    serve(engine, requests()[0])
    assert engine.runner.hidden is None
