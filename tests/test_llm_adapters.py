"""Adapters in ``paceline.LLM``: real PEFT folders on a tiny random model."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from lora_models import TARGETS, merge, random_tensors, write_adapter
from paceline import LLM, AdapterError, InvalidRequestError, PacelineError, SamplingParams
from paceline.backends.registry import get_backend
from paceline.models.loading import load_model
from paceline.sampling.speculative import Speculative
from paceline.speculation.costs import StepCosts
from paceline.speculation.drafters.turbo_format import write_speculator
from tiny_models import tiny_model
from tiny_tokenizer import save_tiny_tokenizer
from turbo_models import tensors_for_text, tiny_config

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPTS = ["The first", "Another one, longer than the first", "in the end"]
NAMES = ("one", "two", "three")
OPTIONS = {"backend": "torch", "threads": 1, "kv_blocks": 64, "max_rows": 32, "max_running": 4}


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> Path:
    path = tiny_checkpoint("smollm2")
    save_tiny_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tensors() -> dict[str, dict]:
    reference = tiny_model("smollm2")
    return {name: random_tensors(reference, 4, targets=TARGETS, seed=i) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def folders(tensors, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(root / name, tensors[name], r=4, lora_alpha=8) for name in NAMES}


@pytest.fixture(scope="module")
def merged(tensors, tmp_path_factory) -> dict[str, list[list[int]]]:
    """Greedy tokens of the model that has each adapter in its weights."""
    found = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(f"merged-{name}")
        merge(tiny_model("smollm2"), tensors[name], 2.0).save_pretrained(folder)
        save_tiny_tokenizer(folder)
        with LLM(str(folder), **OPTIONS) as llm:
            found[name] = [output.outputs[0].token_ids for output in llm.generate(PROMPTS, GREEDY)]
    return found


@pytest.fixture
def llm(model, folders):
    """With two slots for three adapters."""
    with LLM(str(model), adapters=folders, max_adapters=2, **OPTIONS) as llm:
        yield llm


def tokens(outputs) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def test_an_adapter_speaks_as_the_model_that_it_was_merged_into(llm, merged) -> None:
    assert llm.adapters == NAMES
    for name in NAMES:
        assert tokens(llm.generate(PROMPTS, GREEDY, adapter=name)) == merged[name]


def test_each_prompt_may_have_its_own_adapter(llm, merged) -> None:
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    adapters = [name for _ in PROMPTS for name in (None, *NAMES)]
    found = tokens(llm.generate(prompts, GREEDY, adapter=adapters))
    base = tokens(llm.generate(PROMPTS, GREEDY))
    for i, prompt_tokens in enumerate(zip(base, *(merged[name] for name in NAMES), strict=True)):
        assert found[4 * i : 4 * i + 4] == list(prompt_tokens)
    with pytest.raises(InvalidRequestError, match="got 1 for 2"):
        llm.generate(["a", "b"], GREEDY, adapter=["one"])


def test_chats_and_streams_take_an_adapter_too(llm) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    (answer,) = llm.chat(messages, GREEDY, adapter="two")
    assert "".join(part.text for part in llm.chat_stream(messages, GREEDY, adapter="two")) == answer.outputs[0].text
    assert answer.outputs[0].text != llm.chat(messages, GREEDY)[0].outputs[0].text


def test_an_unknown_adapter_is_refused_before_anything_runs(llm) -> None:
    steps = llm.stats.steps
    with pytest.raises(InvalidRequestError, match="no adapter 'four'; there are 'one', 'two', 'three'"):
        llm.generate(["a", "b"], GREEDY, adapter=[None, "four"])
    assert llm.stats.steps == steps


def test_adapters_come_and_go_while_a_stream_runs(llm, folders, merged) -> None:
    stream = llm.generate_stream(PROMPTS[0], GREEDY, adapter="one")
    found = list(next(stream).token_ids)
    llm.unload_adapter("one")
    assert llm.adapters == ("two", "three")
    llm.load_adapter("one", folders["two"])
    assert tokens(llm.generate(PROMPTS, GREEDY, adapter="one")) == merged["two"]
    for part in stream:
        found += part.token_ids
    assert found == merged["one"][0]
    llm.load_adapter("one", folders["three"], replace=True)
    assert tokens(llm.generate(PROMPTS, GREEDY, adapter="one")) == merged["three"]


def test_a_bad_adapter_is_refused_with_the_reason(llm, model, tensors, tmp_path, merged) -> None:
    wrong = dict(tensors["one"])
    name = next(name for name in wrong if name.endswith("q_proj.lora_A.weight"))
    wrong[name] = wrong[name][:, :-1]
    folder = write_adapter(tmp_path / "wrong", wrong, r=4, lora_alpha=8)
    stream = llm.generate_stream(PROMPTS[0], GREEDY, adapter="two")
    found = list(next(stream).token_ids)
    for load in (lambda: llm.load_adapter("bad", folder), lambda: llm.load_adapter("one", folder, replace=True)):
        with pytest.raises(AdapterError, match="q_proj"):
            load()
    assert llm.adapters == NAMES
    assert found + [token for part in stream for token in part.token_ids] == merged["two"][0]
    with pytest.raises(AdapterError, match="q_proj"):
        LLM(str(model), adapters={"bad": folder}, **OPTIONS)
    with pytest.raises(AdapterError, match="there is no adapter at"):
        LLM(str(model), adapters={"bad": tmp_path / "nowhere"}, **OPTIONS)


def test_what_was_loaded_is_told(llm) -> None:
    (choice,) = [choice for choice in llm.info.choices if choice.name == "adapters"]
    assert choice.value == ", ".join(f"{name} (LoRA, 0.1 MiB)" for name in NAMES) and "at most 2" in choice.reason
    with pytest.raises(InvalidRequestError, match="max_adapters must be at least 1"):
        LLM(str(llm.info.path), max_adapters=0, **OPTIONS)


def test_a_closed_llm_loads_nothing(model, folders) -> None:
    llm = LLM(str(model), **OPTIONS)
    llm.close()
    with pytest.raises(PacelineError, match="closed"):
        llm.load_adapter("one", folders["one"])


def test_an_adapter_with_a_speculator_is_all_that_it_takes(llm, model, folders, merged, tmp_path) -> None:
    """With the controller that users have, told that rows are free: drafts that are right stand, no text changes."""
    llm._engine.drafting.controller.costs = StepCosts([(1, 10.0), (64, 10.0)])
    target = load_model(model, get_backend("torch"))
    config = tiny_config(target, positions=4, vocab_size=100, markov_rank=100)
    folder = tmp_path / "turbo"
    shutil.copytree(folders["one"], folder)
    answer = merged["one"][0]
    write_speculator(folder / "speculator", config, tensors_for_text(config, answer))
    assert "turbo" in llm.info.drafters and "one (LoRA, " in _choice(llm, "adapters")
    llm.load_adapter("one", folder, replace=True)
    assert [info.kind for info in llm._engine.adapters.infos()] == ["Turbo LoRA", "LoRA", "LoRA"]
    wishes = msgspec.structs.replace(GREEDY, speculative=Speculative(drafters=("turbo",)))
    for _ in range(3):
        assert tokens(llm.generate(PROMPTS, wishes, adapter="one")) == merged["one"]
    (counted,) = (entry for entry in llm.stats.drafters if entry.drafter == "turbo")
    assert counted.adapter == "one" and counted.accepted_tokens > 0
    (folder / "speculator" / "model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"its speculator cannot be used: cannot read .*model\.safetensors"):
        llm.load_adapter("one", folder, replace=True)
    assert tokens(llm.generate(PROMPTS, wishes, adapter="one")) == merged["one"]


def _choice(llm: LLM, name: str) -> str:
    return next(choice.value for choice in llm.info.choices if choice.name == name)
