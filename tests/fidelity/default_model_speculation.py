"""The default model on the cpu backend, real prompts for it, and real drafters that are admitted without a question."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_drafters import TakesAll
from fake_model import MACHINE, Outcome, collect

from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.bench.speculation.entities import entities, sentences, text_of
from paceline.bench.speculation.workloads import NAMED, load_workload
from paceline.engine.config import EngineConfig
from paceline.engine.engine import Engine
from paceline.engine.factory import eos_ids
from paceline.engine.messages import Request
from paceline.errors import PacelineError
from paceline.models.loading import LoadedModel, load_model
from paceline.models.tokenizer import Tokenizer, load_tokenizer
from paceline.sampling.choices import choice_ids
from paceline.sampling.params import SamplingParams
from paceline.speculation.decision import DraftController
from paceline.speculation.draft import Draft
from paceline.speculation.draft_sampling import Draw, draw_independently
from paceline.speculation.drafters.base import Drafter, Progress, SequenceView
from paceline.speculation.drafters.grammar import GrammarDrafter
from paceline.speculation.drafters.model import ModelDrafter
from paceline.speculation.drafters.ngram import NgramDrafter
from paceline.speculation.drafters.suffix import SuffixDrafter
from paceline.speculation.merge import Proposal, merge
from paceline.speculation.options import SpeculationOptions

MODEL_DRAFT = 4  # tokens, where the model drafter is asked for everybody in every step
SKIPPED_LAYERS = range(14, 18)  # of 30; without them the model is right about a third of the time


@functools.cache
def data_folder() -> Path:
    """The prompt sets beside the checkout, or where ``PACELINE_BENCH_DATA`` says."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("PACELINE_BENCH_DATA") or beside)
    if not (folder / "spec_bench").is_dir():
        pytest.skip(f"the prompt sets are not here: no {folder / 'spec_bench'} (set PACELINE_BENCH_DATA)")
    return folder


@dataclass(frozen=True)
class Case:
    """A prompt, and what is asked of it."""

    name: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams

    def request(self, **changes: Any) -> Request:
        params = msgspec.structs.replace(self.params, **changes)
        return Request(request_id=self.name, prompt_ids=list(self.prompt_ids), params=params, arrival_time=0.0)


class Target:
    """The default model, loaded once; every engine on it has a new cache."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.backend: Backend = get_backend("cpu", threads=2)
        except PacelineError as error:
            pytest.skip(str(error))
        self.model: LoadedModel = load_model(path, self.backend)
        self.tokenizer: Tokenizer = load_tokenizer(path)
        self._eos_ids = eos_ids(path, self.model.config)

    def engine(self, controller: DraftController | None = None, **config: Any) -> Engine:
        wishes = EngineConfig(**config)
        return Engine(self.model, self.backend, wishes, eos_ids=self._eos_ids, controller=controller, limits=MACHINE)

    def prompt(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        text = self.tokenizer.apply_chat_template(messages)
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def cases(self, workload: str, count: int, longest: int, **params: Any) -> list[Case]:
        """The first ``count`` prompts of a set that have at most ``longest`` tokens."""
        found: Iterator[Case] = (
            Case(f"{workload}/{conversation.key}", ids, SamplingParams(**{"temperature": 0.0, "seed": 1, **params}))
            for conversation in load_workload(NAMED[workload], data_folder())
            if len(ids := self.prompt(conversation.opening())) <= longest
        )
        cases = list(islice(found, count))
        assert len(cases) == count, f"{workload} has only {len(cases)} prompts of at most {longest} tokens"
        return cases

    def choice_cases(self, count: int, **params: Any) -> list[Case]:
        """Sentences whose entities are asked for; the answer is one of those to this sentence and the next three."""
        useful = (s for s in sentences(data_folder() / "conllpp" / "conllpp_dev.txt") if len(entities(s)) > 1)
        some = list(islice(useful, 4 * count))
        cases = []
        for i in range(count):
            four = some[4 * i : 4 * i + 4]
            answers = tuple(dict.fromkeys(json.dumps(entities(sentence)) for sentence in four))
            prompt = self.prompt([{"role": "user", "content": f"List the named entities as JSON: {text_of(four[0])}"}])
            wish = {"choice": answers, "choice_ids": choice_ids(answers, self.tokenizer)}
            chosen = SamplingParams(**{"temperature": 0.0, "seed": 1, "max_tokens": 64, **wish, **params})
            cases.append(Case(f"choice/{i}", prompt, chosen))
        return cases

    def small_model(self) -> LoadedModel:
        """The model itself without ``SKIPPED_LAYERS``: a draft model that is often right and often wrong."""
        kept = [i for i in range(self.model.spec.num_layers) if i not in SKIPPED_LAYERS]
        weights = [self.model.weights.layers[i] for i in kept]
        renumbered = [replace(w, attention=replace(w.attention, layer=i)) for i, w in enumerate(weights)]
        spec = replace(self.model.spec, layers=tuple(self.model.spec.layers[i] for i in kept))
        return replace(self.model, spec=spec, weights=replace(self.model.weights, layers=renumbered))

    def drafters(
        self, *names: str, draw: Draw = draw_independently, blocks: int = 600, merging: bool = False
    ) -> Drafters:
        """New drafters by name, with nothing learned; ``merging``: their proposals are verified as one tree."""
        make = {
            "suffix": lambda: SuffixDrafter(SpeculationOptions()),
            "ngram": lambda: NgramDrafter(SpeculationOptions()),
            "grammar": GrammarDrafter,
            "model": lambda: ModelDrafter(
                self.small_model(), self.backend.sibling(), [blocks], 32, catch_up_rows=256, draw=draw
            ),
        }
        return (Merging if merging else Drafters)([make[name]() for name in names])


class Drafters:
    """Real drafters as one: in each step another one goes first for a sequence, the next ones where it has nothing."""

    name = "several"
    cheap = False
    layers: tuple[int, ...] = ()

    def __init__(self, drafters: Seq[Drafter]) -> None:
        self.drafters = drafters
        self._steps = 0

    def controller(self) -> TakesAll:
        """Every proposal is verified, whatever it costs."""
        return TakesAll(self)

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        self._steps += 1
        drafts: list[Draft | None] = [None] * len(sequences)
        for later in range(len(self.drafters)):
            for number, drafter in enumerate(self.drafters):
                turn = self._steps + later - number
                places = [i for i, draft in enumerate(drafts) if draft is None and (i + turn) % len(self.drafters) == 0]
                if places:
                    wanted = [lengths[i] if drafter.cheap else min(lengths[i], MODEL_DRAFT) for i in places]
                    for i, draft in zip(places, drafter.propose([sequences[i] for i in places], wanted), strict=True):
                        drafts[i] = draft
        return drafts

    def observe(self, progress: Seq[Progress]) -> None:
        for drafter in self.drafters:
            drafter.observe(progress)

    def forget(self, sequence: SequenceView) -> None:
        for drafter in self.drafters:
            drafter.forget(sequence)

    def check_nothing_is_kept(self) -> None:
        """Asserts that all sequences were forgotten: only the suffix drafter remembers outputs, up to its bound."""
        for drafter in self.drafters:
            if isinstance(drafter, SuffixDrafter):
                assert not drafter._known and not drafter._siblings
                assert drafter.num_cached_tokens <= SpeculationOptions().suffix_max_cached_tokens
            elif isinstance(drafter, NgramDrafter):
                assert not drafter._known
            elif isinstance(drafter, ModelDrafter):
                assert not drafter._cache.tracks and drafter._cache.cache.num_used_blocks == 0
                drafter.check_integrity()


class Merging(Drafters):
    """All that the drafters propose, as one tree; in each step another one is trusted most."""

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        self._steps += 1
        turn = self._steps % len(self.drafters)
        proposed = [one.propose(sequences, lengths) for one in (*self.drafters[turn:], *self.drafters[:turn])]
        drafts: list[Draft | None] = []
        for own, limit in zip(zip(*proposed, strict=True), lengths, strict=True):
            parts = [Proposal(draft, _falling(draft)) for draft in own if draft is not None and len(draft)]
            drafts.append(merge(parts, lambda pair: 0.5).draft.trim(limit) if parts else None)
        return drafts


def _falling(draft: Draft) -> list[float]:
    """Survivals of a draft whose tokens are all trusted alike."""
    parents = range(-1, len(draft) - 1) if draft.parents is None else draft.parents
    survival: list[float] = []
    for parent in parents:
        survival.append(0.9 * (survival[parent] if parent >= 0 else 1.0) / (1 + (draft.parents or ()).count(parent)))
    return survival


def serve(engine: Engine, requests: Seq[Request], urgent: Seq[Request] = ()) -> dict[tuple[str, int], Outcome]:
    """Adds all requests and steps until they end; then nothing of them is held. ``urgent`` ones come when most of the
    cache is in use, and go before the others."""
    outcomes: dict[tuple[str, int], Outcome] = {}
    for request in requests:
        engine.add(request)
    late = [msgspec.structs.replace(request, priority=-1) for request in urgent]
    while engine.has_work() or late:
        if not engine.has_work() or engine.cache.num_used_blocks > 0.75 * engine.cache.num_blocks:
            while late:
                engine.add(late.pop())
        collect(outcomes, engine.step().deltas)
    engine.check_integrity()
    assert engine.stats().kv_blocks_used == 0
    return outcomes
