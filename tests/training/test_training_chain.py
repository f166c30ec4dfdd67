"""From a target's own texts to a speculator that the engine loads: the whole chain, on a language that is certain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy_language import FIRST, LAST, prompts, save_toy_model, successors

from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.engine.config import EngineConfig, Machine
from paceline.engine.engine import Engine
from paceline.engine.messages import Request
from paceline.errors import InvalidRequestError, PacelineError
from paceline.models.loading import LoadedModel, load_model
from paceline.sampling.params import SamplingParams
from paceline.speculation.drafters.turbo_format import SpeculatorConfig, read_speculator
from paceline.speculation.drafters.turbo_loading import open_turbo_drafter
from paceline.training.architecture import default_config, target_tables
from paceline.training.evaluate import acceptance
from paceline.training.fit import FitConfig, Fitted, fit, rate
from paceline.training.regenerate import Text, read_texts, write_texts
from paceline.training.speculator import Speculator, new_tensors
from paceline.training.states import StateReader, StateSet, collect, state_scale
from paceline.training.vocabulary import draft_indices, draft_vocabulary

OUTPUT = 24
LAYERS = (0, 2)
SETTINGS = FitConfig(
    steps=200, texts=8, anchors=16, learning_rate=8e-3, warm_up=10, evaluate_every=50, evaluate_blocks=256, held_out=0.1
)


class Chain:
    """A target of the toy language and the states of its texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        save_toy_model(folder / "target")
        self.backend: Backend = get_backend("torch", row_invariant=False)
        self.model: LoadedModel = load_model(folder / "target", self.backend)
        self.texts = [
            Text(prompt, answer) for prompt, answer in zip(prompts(60), self.answers(prompts(60)), strict=True)
        ]
        reader = StateReader(self.model, self.backend, LAYERS, 64)
        self.states: StateSet = collect(reader, self.texts, folder / "states", LAYERS, window=32, top=4)
        self.tables = target_tables(folder / "target")
        wishes = {"layers": LAYERS, "positions": 4, "vocab_size": 64, "markov_rank": 8, "window": 32}
        self.config: SpeculatorConfig = default_config(self.model.spec, "toy", **wishes)
        self.tokens = draft_vocabulary(self.states, self.config.vocab_size, self.config.target.vocab_size)

    def answers(self, asked: list[list[int]]) -> list[list[int]]:
        machine = Machine(free_bytes=2**30, cores=1)
        engine = Engine(self.model, self.backend, EngineConfig(kv_blocks=256), limits=machine)
        params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, seed=1, ignore_eos=True)
        found: dict[str, list[int]] = {}
        for i, prompt in enumerate(asked):
            engine.add(Request(request_id=str(i), prompt_ids=prompt, params=params, arrival_time=0.0))
        while engine.has_work():
            for delta in engine.step().deltas:
                found.setdefault(delta.request_id, []).extend(delta.token_ids)
        return [found[str(i)] for i in range(len(asked))]

    def fit(self, settings: FitConfig = SETTINGS, **options: object) -> Fitted:
        tensors = new_tensors(self.config, self.tokens, state_scale(self.states), self.tables, seed=0)
        return fit(self.states, self.config, tensors, self.tables.embedding, settings, **options)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def fitted(chain: Chain) -> Fitted:
    made = chain.fit()
    made.save(chain.folder / "speculator", SETTINGS, {"data": "toy"})
    return made


def test_the_target_speaks_the_toy_language(chain: Chain) -> None:
    following = successors()
    for text in chain.texts:
        before = text.token_ids[len(text.prompt_ids) - 1 : -1]
        assert text.output_ids == [following[token] for token in before]


def test_collected_states_are_those_of_the_target(chain: Chain) -> None:
    lesson, text = chain.states[7], chain.texts[7]
    assert lesson.token_ids.tolist() == text.token_ids and lesson.first == len(text.prompt_ids)
    assert (lesson.top_ids[:, 0] == lesson.token_ids[lesson.first :]).all()
    backend = get_backend("torch")
    model = load_model(chain.folder / "target", backend)
    states, _, _ = StateReader(model, backend, LAYERS, 64).read(np.array(text.token_ids, dtype=np.int32), 0, 2)
    assert np.allclose(lesson.states[:-1], states, atol=1e-2)
    assert not lesson.states[-1].any(), "the last token was never computed"


@pytest.mark.parametrize("name", ["torch", "cpu"])
def test_a_trained_drafter_is_nearly_always_right_in_the_engine(chain: Chain, fitted: Fitted, name: str) -> None:
    try:
        backend = get_backend(name) if name == "torch" else get_backend(name, threads=1)
    except PacelineError as error:
        pytest.skip(str(error))
    model = load_model(chain.folder / "target", backend)
    drafter, _ = open_turbo_drafter(
        chain.folder / "speculator", model, backend, target_name="toy", max_sequences=4, max_tokens=64
    )
    params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, seed=1, ignore_eos=True)
    unseen = prompts(70)[60:]
    found = acceptance(model, backend, drafter, unseen, params, length=4, running=4)
    assert found.tokens == OUTPUT * len(unseen)
    assert found.length > 3.5, "of at most five tokens a step"
    assert min(found.accepted_per_position) > 0.7
    drafter.check_integrity()


def test_what_it_says_of_itself_is_true(chain: Chain, fitted: Fitted) -> None:
    assert fitted.accepted > 3.0
    config, _ = read_speculator(chain.folder / "speculator")
    assert config.card["data"] == "toy" and config.card["held_out_accepted"] == round(fitted.accepted, 4)
    assert [entry["step"] for entry in fitted.history] == [50, 100, 150, 200]
    first, last = fitted.history[0]["accepted"], fitted.history[-1]["accepted"]
    assert last > first


def test_a_resumed_run_ends_with_the_same_weights(chain: Chain, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=12, evaluate_every=5)
    whole = chain.fit(settings)
    calls = iter([False] * 7 + [True])
    chain.fit(settings, folder=tmp_path, stop=lambda: next(calls))
    seen: list[int] = []
    resumed = chain.fit(settings, folder=tmp_path, progress=lambda report: seen.append(report.step))
    assert seen == list(range(8, 13)), "it went on where it was stopped"
    for name, tensor in whole.model.tensors().items():
        assert torch.equal(tensor, resumed.model.tensors()[name]), name
    assert resumed.history == whole.history
    with pytest.raises(InvalidRequestError, match="other settings \\(seed\\)"):
        chain.fit(replace(settings, seed=3), folder=tmp_path)


def test_it_ends_when_nothing_gets_better(chain: Chain) -> None:
    settings = replace(SETTINGS, steps=60, evaluate_every=2, patience=3, learning_rate=1e-9)
    ended = chain.fit(settings)
    assert len(ended.history) == 4 and ended.step == 2


def test_the_vocabulary_is_what_the_target_writes(chain: Chain) -> None:
    written = {token for text in chain.texts for token in text.output_ids}
    tokens = draft_vocabulary(chain.states, 20, 160)
    assert len(tokens) == 20 and (tokens.diff() > 0).all() and set(tokens.tolist()) <= written
    assert set(range(FIRST, LAST)) <= set(chain.tokens.tolist())
    indices = draft_indices(tokens, 160)
    assert (indices[tokens] == torch.arange(20)).all() and int((indices >= 0).sum()) == 20


def test_states_stop_at_the_bytes_they_may_take(chain: Chain, tmp_path: Path) -> None:
    reader = StateReader(chain.model, chain.backend, LAYERS, 64)
    few = collect(reader, chain.texts, tmp_path, LAYERS, window=4, top=4, max_bytes=50_000)
    assert 2 < len(few) < len(chain.texts)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.bin")) <= 50_000
    assert few[1].token_ids.tolist() == chain.texts[1].token_ids[2:] and few[1].first == 4
    with pytest.raises(InvalidRequestError, match="no text could be kept"):
        collect(reader, chain.texts, tmp_path, LAYERS, window=4, top=4, max_bytes=10)


def test_texts_survive_a_file(tmp_path: Path) -> None:
    texts = [Text([1, 2], [3]), Text([4], [5, 6])]
    assert write_texts(tmp_path / "texts.jsonl", texts) == 2
    assert read_texts(tmp_path / "texts.jsonl") == texts
    (tmp_path / "texts.jsonl").write_text('{"prompt": [1]}\n')
    with pytest.raises(InvalidRequestError, match="line 1"):
        read_texts(tmp_path / "texts.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"held_out": 1.0}, "between 0 and 1"),
        ({"gamma": -1.0}, "gamma"),
    ],
)
def test_settings_that_cannot_be_are_refused(chain: Chain, change: dict, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        chain.fit(replace(SETTINGS, **change))


def test_states_of_other_layers_are_refused(chain: Chain) -> None:
    config = default_config(chain.model.spec, "toy", layers=(1,), vocab_size=8)
    with pytest.raises(InvalidRequestError, match=r"states are of layers \[0, 2\], the speculator reads \[1\]"):
        fit(chain.states, config, new_tensors(config, torch.arange(8), torch.ones(64), chain.tables, 0),
            chain.tables.embedding, SETTINGS)  # fmt: skip


def test_states_of_several_folders_are_one_set(chain: Chain, tmp_path: Path) -> None:
    reader = StateReader(chain.model, chain.backend, LAYERS, 64)
    for name, texts in (("a", chain.texts[:3]), ("b", chain.texts[3:8])):
        collect(reader, texts, tmp_path / name, LAYERS, window=32, top=4)
    both = StateSet(tmp_path / "a", tmp_path / "b")
    assert len(both) == 8 and both.files.tokens == sum(len(text.token_ids) for text in chain.texts[:8])
    assert (both.output_counts() == chain.states.output_counts()[:8]).all()
    for text in (2, 3, 7):
        assert (both[text].states == chain.states[text].states).all()
        assert (both[text].top_ids == chain.states[text].top_ids).all()
    second = StateSet(tmp_path / "a", tmp_path / "b", layers=[2])
    width = both.files.width // 2
    assert second.files.layers == (2,) and second.files.width == width
    assert (second[5].states == both[5].states[:, width:]).all()
    with pytest.raises(InvalidRequestError, match=r"states of layers \[0, 2\], wanted are \[1\]"):
        StateSet(tmp_path / "a", layers=[1])
    collect(reader, chain.texts[:3], tmp_path / "c", LAYERS, window=32, top=2)
    with pytest.raises(InvalidRequestError, match="collect all with the same settings"):
        StateSet(tmp_path / "a", tmp_path / "c")


def test_a_run_goes_on_with_more_texts_and_fewer_steps(chain: Chain, tmp_path: Path) -> None:
    """Judged by texts of their own; the steps may change as long as the learning rate has not begun to fall."""
    reader = StateReader(chain.model, chain.backend, LAYERS, 64)
    parts = [tmp_path / "held", tmp_path / "first", tmp_path / "later"]
    for part, texts in zip(parts, (chain.texts[:4], chain.texts[4:20], chain.texts[20:40]), strict=True):
        collect(reader, texts, part, LAYERS, window=32, top=4)
    tensors = new_tensors(chain.config, chain.tokens, state_scale(chain.states), chain.tables, seed=0)
    settings = replace(SETTINGS, steps=1000, evaluate_every=5, decay=0.3)

    def go(states: StateSet, settings: FitConfig, steps: int) -> Fitted:
        calls = iter([False] * steps + [True])
        return fit(
            states, chain.config, tensors, chain.tables.embedding, settings,
            folder=tmp_path / "run", held=StateSet(parts[0]), stop=lambda: next(calls),
        )  # fmt: skip

    go(StateSet(parts[1]), settings, 10)
    ended = go(StateSet(*parts[1:]), replace(settings, steps=20), 50)
    assert [entry["step"] for entry in ended.history] == [5, 10, 15, 20]
    with pytest.raises(InvalidRequestError, match="other settings \\(steps\\)"):
        go(StateSet(*parts[1:]), replace(settings, steps=1000), 1)


def test_mask_rows_are_the_norm_of_states_and_mask(chain: Chain) -> None:
    """The rows that share products with their known token, computed without sharing."""
    torch.manual_seed(0)
    tensors = new_tensors(chain.config, chain.tokens, state_scale(chain.states), chain.tables, seed=3)
    tensors |= {name: tensors[name] + torch.rand_like(tensors[name]) for name in ("masks", "state_norm")}
    model = Speculator(chain.config, tensors, chain.tables.embedding)
    lesson = chain.states[0]
    ids = torch.from_numpy(lesson.token_ids.astype(np.int64)).unsqueeze(0)
    states = torch.from_numpy(lesson.states.copy()).unsqueeze(0)
    anchors = torch.tensor([[3, 7]])
    _, rows = model._rows(ids, states, anchors)
    scaled = states[0, anchors[0]].float() * model.state_scale
    inputs = torch.stack([scaled, *(scaled + mask for mask in model.masks)], dim=1)
    wanted = F.linear(F.rms_norm(inputs, inputs.shape[-1:], model.state_norm, chain.config.norm_eps), model.from_states)
    token = F.rms_norm(
        chain.tables.embedding[ids[0, anchors[0]]], model.embedding_norm.shape, model.embedding_norm, 1e-5
    )
    wanted = wanted + F.linear(token, model.from_embedding).unsqueeze(1)
    assert torch.allclose(rows[0], wanted, atol=1e-4)


def test_the_rate_warms_up_and_comes_down() -> None:
    settings = FitConfig(steps=100, warm_up=10, final_share=0.1)
    assert rate(0, settings) == 0.1 and rate(9, settings) == 1.0
    assert rate(55, settings) == pytest.approx(0.55) and rate(100, settings) == pytest.approx(0.1)
    late = replace(settings, decay=0.2)
    assert rate(80, late) == 1.0 and rate(90, late) == pytest.approx(0.55) and rate(100, late) == pytest.approx(0.1)
