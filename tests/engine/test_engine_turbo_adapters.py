"""Adapters that bring their own speculators: every text stays its own, speculators come and go with their adapters."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from fake_adapters import AtOnce, WhenTold, load
from fake_drafters import TakesAll
from fake_model import MACHINE, Outcome, collect, serve
from safetensors.torch import load_file, save_file
from test_engine_backends import loaded, prompt_of

from lora_models import random_tensors as random_lora
from lora_models import write_adapter
from paceline.adapters.peft import read_adapter
from paceline.engine.adapter_reading import AdapterReader
from paceline.engine.config import EngineConfig
from paceline.engine.engine import Engine
from paceline.engine.messages import Request
from paceline.sampling.params import SamplingParams
from paceline.speculation.drafters.turbo_format import write_speculator
from paceline.speculation.drafters.turbo_loading import open_turbo_drafter
from paceline.speculation.drafters.turbo_speculators import TurboSpeculators
from tiny_models import tiny_model
from turbo_models import tensors_for_text, tiny_config

#: Adapter (None: the base model): its speculator's draft length, layers and vocabulary.
SHAPES = {None: (3, (1,), 60), "a": (4, (0, 2), 64), "b": (7, (1, 2), 96)}


class Everything(TakesAll):
    """Verifies all that speculators propose; their layers are those of the moment."""

    layers = property(lambda self: self.drafter.layers, lambda self, layers: None)


class World:
    """A tiny model, adapters and speculators in folders; each speculator knows the greedy text of its adapter."""

    def __init__(self, backend: str, checkpoint: Path, root: Path) -> None:
        self.model, self.backend = loaded(backend, checkpoint)
        self.root = root
        reference = tiny_model("smollm2")
        for seed, name in enumerate("abc"):
            write_adapter(root / name, random_lora(reference, 4, seed=seed), r=4, lora_alpha=8)
        self.answers = {}
        engine = self.engine(None)
        for name in "abc":
            assert load(engine, name, root / name) is None
        for request in self.requests():
            self.answers |= {key: outcome.token_ids for key, outcome in serve(engine, request).items()}
        for name, (positions, layers, size) in SHAPES.items():
            self.write(root / name if name else root / "base", name, positions, layers, size)

    def write(self, folder: Path, name: str | None, positions: int, layers: tuple[int, ...], size: int) -> None:
        config = tiny_config(self.model, positions=positions, layers=layers, vocab_size=size, markov_rank=size)
        text = self.requests(name)[0].prompt_ids[-1:] + self.answers[f"{name}-greedy", 0]
        write_speculator(folder / "speculator", config, tensors_for_text(config, text))

    def open(self, folder: Path) -> object:
        return open_turbo_drafter(
            folder, self.model, self.backend, target_name="tiny", max_sequences=8, max_tokens=128, cache_dtype="f32"
        )[0]

    def engine(self, speculators: TurboSpeculators | None, **config: object) -> Engine:
        read = partial(read_adapter, shapes=self.model.adapter_shapes, base="tiny")
        engine = Engine(
            self.model,
            self.backend,
            EngineConfig(**{"kv_blocks": 64, "max_adapters": 3, **config}),
            controller=None if speculators is None else Everything(speculators),
            limits=MACHINE,
            read_adapter=AdapterReader(read, None if speculators is None else speculators.open),
            speculators=speculators,
        )
        engine.adapters.registry.executor = AtOnce()
        return engine

    def drafting_engine(self, base: bool = True, names: str = "abc", **config: object) -> Engine:
        speculators = TurboSpeculators(self.open, self.open(self.root / "base" / "speculator") if base else None)
        engine = self.engine(speculators, **config)
        for name in names:
            assert load(engine, name, self.root / name) is None
        return engine

    def requests(self, *names: str | None) -> list[Request]:
        found = []
        for name in names or (None, *"abc"):
            for kind, options in (("greedy", {"temperature": 0.0}), ("sampled", {"temperature": 1.0, "n": 2})):
                params = SamplingParams(seed=5, max_tokens=20, ignore_eos=True, **options)
                prompt = prompt_of(19, 1)
                made = Request(
                    request_id=f"{name}-{kind}", prompt_ids=prompt, params=params, arrival_time=0.0, adapter=name
                )
                found.append(made)
        return found

    def check(self, outcomes: dict[tuple[str, int], Outcome]) -> None:
        assert outcomes and all(outcome.token_ids == self.answers[key] for key, outcome in outcomes.items())


def speculators_of(engine: Engine) -> TurboSpeculators:
    return engine.drafting.controller.drafter


def check_nothing_is_kept(engine: Engine) -> None:
    speculators = speculators_of(engine)
    speculators.check_integrity()
    drafters = [*speculators._own.values(), *([speculators.base] if speculators.base else [])]
    assert not any(drafter._tracks.tracks for drafter in drafters)
    engine.check_integrity()


@pytest.fixture(scope="module", params=["cpu"])
def world(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path], tmp_path_factory) -> World:
    return World(request.param, tiny_checkpoint("smollm2"), tmp_path_factory.mktemp("turbo"))


@pytest.mark.parametrize("config", [{}, {"max_rows": 24}, {"max_adapters": 1}], ids=str)
def test_texts_of_a_mixed_batch_are_those_of_each_request_alone(world: World, config: dict) -> None:
    """Adapter c has no speculator: the base model's drafts for it."""
    engine = world.drafting_engine(**config)
    world.check(serve(engine, *world.requests()))
    counted = {entry.adapter: entry for entry in engine.stats().drafters}
    assert set(counted) == {"", "a", "b", "c"} and {entry.drafter for entry in counted.values()} == {"turbo"}
    for name, (positions, _, _) in SHAPES.items():
        entry = counted[name or ""]
        assert len(entry.drafted_per_position) == positions and entry.accepted_tokens > 3
    assert len(counted["c"].drafted_per_position) == SHAPES[None][0]
    check_nothing_is_kept(engine)


def test_preempted_sequences_draft_again_when_they_come_back(world: World) -> None:
    engine = world.drafting_engine(max_running=3, max_adapters=1)
    outcomes: dict[tuple[str, int], Outcome] = {}
    for request in world.requests("a"):
        engine.add(request)
    for _ in range(3):
        collect(outcomes, engine.step().deltas)
    drafts = next(entry.drafts for entry in engine.stats().drafters if entry.adapter == "a")
    for request in world.requests("b"):
        engine.add(msgspec.structs.replace(request, priority=-1))
    while engine.has_work():
        collect(outcomes, engine.step().deltas)
    world.check(outcomes)
    assert engine.stats().preemptions >= 2
    assert next(entry.drafts for entry in engine.stats().drafters if entry.adapter == "a") > drafts
    check_nothing_is_kept(engine)


def test_sequences_of_one_speculator_are_one_pass(world: World) -> None:
    engine = world.drafting_engine()
    passes: list[tuple[str, int]] = []
    for name, drafter in (("base", speculators_of(engine).base), *speculators_of(engine)._own.items()):
        run = drafter._program.run
        program = type("Watching", (), {"max_rows": drafter._program.max_rows})()
        program.run = lambda batch, name=name, run=run: passes.append((name, len(batch.context_lens))) or run(batch)
        drafter._program = program
    for request in world.requests():
        engine.add(request)
    engine.step()
    engine.step()
    passes.clear()
    engine.step()
    assert sorted(passes) == [("a@1", 3), ("b@2", 3), ("base", 6)]
    for request in world.requests("b", "c", None):
        engine.abort(request.request_id)
    passes.clear()
    engine.step()
    assert [name for name, _ in passes] == ["a@1"], "speculators that nobody in the step has do nothing"


def test_without_a_base_speculator_only_adapters_with_their_own_draft(world: World) -> None:
    engine = world.drafting_engine(base=False)
    world.check(serve(engine, *world.requests()))
    assert {entry.adapter for entry in engine.stats().drafters} == {"a", "b"}


def test_the_program_shows_the_layers_that_speculators_read_at_the_moment(world: World) -> None:
    engine = world.drafting_engine(base=False, names="")
    plain = engine.runner.program
    world.check(serve(engine, *world.requests(None)))
    assert engine.runner.hidden is None and engine.runner.program is plain, "nobody asks, nothing changes"
    width = world.model.spec.hidden_size
    for name, columns in (("a", 2), ("c", 2), ("b", 3)):
        assert load(engine, name, world.root / name) is None
        world.check(serve(engine, *world.requests(None, name)))
        assert engine.runner.hidden.shape[1] == columns * width
    engine.unload_adapter("a")
    engine.unload_adapter("b")
    world.check(serve(engine, *world.requests("c")))
    assert engine.runner.hidden is None


def test_adapters_with_speculators_come_and_go_while_others_run(world: World) -> None:
    engine = world.drafting_engine(names="a")
    reader = engine.adapters.registry.executor = WhenTold()
    outcomes: dict[tuple[str, int], Outcome] = {}
    for request in world.requests("a", None):
        engine.add(request)
    for _ in range(3):
        collect(outcomes, engine.step().deltas)
    engine.load_adapter("b", str(world.root / "b"))
    for request in world.requests("b"):  # may be named at once, and wait
        engine.add(request)
    collect(outcomes, engine.step().deltas)
    engine.unload_adapter("a")  # its sequences go on, drafts and all
    assert len(speculators_of(engine)._own) == 1
    reader.read()
    collect(outcomes, engine.step().deltas)
    assert len(speculators_of(engine)._own) == 2
    while engine.has_work():
        collect(outcomes, engine.step().deltas)
    world.check(outcomes)
    assert [info.name for info in engine.adapters.infos()] == ["b"]
    assert list(speculators_of(engine)._own) == ["b@2"], "a's went with its last sequence"
    check_nothing_is_kept(engine)


def test_a_replacement_brings_its_own_speculator_and_leaves_the_old_one_to_those_that_run(
    world: World, tmp_path: Path
) -> None:
    engine = world.drafting_engine(names="a")
    folder = write_adapter(tmp_path / "a", random_lora(tiny_model("smollm2"), 4, seed=1), r=4, lora_alpha=8)
    world.write(folder, "b", 5, (2,), 64)
    for request in world.requests("a"):
        engine.add(request)
    outcomes: dict[tuple[str, int], Outcome] = {}
    for _ in range(3):
        collect(outcomes, engine.step().deltas)
    engine.load_adapter("a", str(folder), replace=True)
    while engine.has_work():
        collect(outcomes, engine.step().deltas)
    world.check(outcomes)
    (own,) = speculators_of(engine)._own.values()
    assert own.positions == 5
    renamed = [
        msgspec.structs.replace(one, adapter="a", request_id="new" + one.request_id) for one in world.requests("b")
    ]
    for (name, index), outcome in serve(engine, *renamed).items():
        assert outcome.token_ids == world.answers[name.removeprefix("new"), index]
    check_nothing_is_kept(engine)


def break_tensor(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    file = folder / "speculator" / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, file)


BROKEN = {
    "config.json: Expected|not the folder of a speculator": lambda folder: (folder / "speculator/config.json").unlink(),
    "cannot read .*model.safetensors": lambda folder: (folder / "speculator/model.safetensors").unlink(),
    "'head' should have shape": lambda folder: break_tensor(folder, "head", lambda head: head[1:]),
    "'down' has numbers that are not finite": lambda folder: break_tensor(folder, "down", lambda x: x * float("nan")),
    "trained for tiny, and tiny has num_layers 3 instead of 4": lambda folder: _other_target(folder),
}


def _other_target(folder: Path) -> None:
    file = folder / "speculator" / "config.json"
    text = file.read_text().replace('"num_layers": 3', '"num_layers": 4')
    hash_line = next(line for line in text.splitlines() if "shape_hash" in line)
    file.write_text(text.replace(hash_line, '  "shape_hash": "",'))


@pytest.mark.parametrize("reason", BROKEN)
def test_a_speculator_that_does_not_fit_refuses_the_adapter_and_disturbs_nothing(
    world: World, tmp_path: Path, reason: str
) -> None:
    folder = write_adapter(tmp_path / "x", random_lora(tiny_model("smollm2"), 4, seed=0), r=4, lora_alpha=8)
    world.write(folder, "a", 4, (0,), 64)
    BROKEN[reason](folder)
    engine = world.drafting_engine(names="a")
    for request in world.requests("a"):
        engine.add(request)
    outcomes: dict[tuple[str, int], Outcome] = {}
    for replace in (False, True):
        engine.load_adapter("a" if replace else "x", str(folder), replace=replace)
        report = engine.step()
        collect(outcomes, report.deltas)
        (reply,) = report.replies
        assert reply.error is not None and "its speculator cannot be used" in reply.error
        assert re.search(reason, reply.error), reply.error
    while engine.has_work():
        collect(outcomes, engine.step().deltas)
    world.check(outcomes)
    assert list(speculators_of(engine)._own) == ["a@1"]
    check_nothing_is_kept(engine)


def test_speculators_are_told_and_counted_as_memory(world: World) -> None:
    engine = world.drafting_engine()
    infos = {info.name: info for info in engine.adapters.infos()}
    assert [infos[name].kind for name in "abc"] == ["Turbo LoRA", "Turbo LoRA", "LoRA"]
    for name in "ab":
        own = infos[name].speculator
        assert (own.positions, own.vocab_size) == (SHAPES[name][0], SHAPES[name][2])
        assert own.nbytes == speculators_of(engine)._own[f"{name}@{'ab'.index(name) + 1}"].nbytes
        assert infos[name].nbytes == infos["c"].nbytes + own.nbytes
    registry = engine.adapters.registry
    assert registry.memory_bytes == registry.cached_bytes == sum(info.nbytes for info in infos.values())


def test_adapters_that_do_not_fit_the_memory_leave_with_their_speculators_and_come_back(world: World) -> None:
    all_fit = world.drafting_engine()
    limit = all_fit.adapters.registry.memory_bytes - 1
    engine = world.drafting_engine(names="", adapter_cache_bytes=limit)
    registry = engine.adapters.registry
    for name in "abc":
        assert load(engine, name, world.root / name) is None
        assert registry.memory_bytes <= limit
    assert list(speculators_of(engine)._own) == ["b@2"], "the least recently used one went"
    for _ in range(2):
        world.check(serve(engine, *world.requests("a")))
        world.check(serve(engine, *world.requests("b")))
    world.check(serve(engine, *world.requests()))
    check_nothing_is_kept(engine)
    assert {entry.adapter: entry.evictions for entry in engine.stats().adapters}["a"] > 0
    assert all(entry.accepted_tokens > 5 for entry in engine.stats().drafters if entry.adapter != "c")


def test_nothing_fits_and_everybody_is_served_all_the_same(world: World) -> None:
    engine = world.drafting_engine(adapter_cache_bytes=0)
    assert not speculators_of(engine)._own and engine.adapters.registry.memory_bytes == 0
    world.check(serve(engine, *world.requests()))
    assert {entry.adapter for entry in engine.stats().drafters} == {"", "a", "b", "c"}
