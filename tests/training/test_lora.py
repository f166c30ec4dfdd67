"""Batches, gradients and rates of an adapter's training."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_task import save_task_model

from paceline.errors import ModelLoadError
from paceline.training.data import Example
from paceline.training.lora import LoraTraining, answer_batch, plan, plan_epoch, rate
from paceline.training.lora_model import load_base, with_lora
from paceline.training.settings import LoraSettings
from tiny_models import tiny_model

pytest.importorskip("peft")
CPU = torch.device("cpu")


def test_an_epoch_has_every_row_once_and_little_padding() -> None:
    lengths = np.random.default_rng(1).integers(20, 120, 800).tolist()
    batches = plan_epoch(lengths, 1024, np.random.default_rng(0))
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(800))
    sizes = [max(lengths[row] for row in batch) * len(batch) for batch in batches]
    assert max(sizes) <= 1024 and sum(sizes) < 1.15 * sum(lengths)
    assert plan_epoch([2000, 10], 1024, np.random.default_rng(0)) in ([[0], [1]], [[1], [0]])


def test_small_data_has_small_batches_and_more_epochs() -> None:
    settings = LoraSettings()
    assert len(plan([50] * 40, settings, 0)) > 100
    assert settings.chosen_epochs(40) == 6 and settings.chosen_epochs(3000) == 3 and settings.chosen_epochs(10**6) == 2
    assert plan([50] * 40, settings, 0) == plan([50] * 40, settings, 0) != plan([50] * 40, settings, 1)


def test_places_and_targets_are_those_of_the_answers() -> None:
    batch = answer_batch([Example(1, [5, 6, 7], [8, 2]), Example(2, [9], [10, 11, 2])], CPU)
    assert batch.token_ids.tolist() == [[5, 6, 7, 8, 2], [9, 10, 11, 2, 0]]
    assert batch.targets.tolist() == [8, 2, 10, 11, 2]
    assert batch.places.tolist() == [2, 3, 5, 6, 7]


def test_loss_and_gradients_are_those_of_the_whole_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen places, the head in pieces and padding change nothing: PEFT's own loss of each row says so."""
    monkeypatch.setattr("paceline.training.lora.HEAD_ROWS", 2)
    base = load_base(save_task_model(tmp_path / "model"), CPU)
    settings = LoraSettings(rank=2, clip=1e9)
    model = with_lora(base, settings, "tiny", 0)
    rows = [Example(1, [5, 6, 7], [8, 9, 2]), Example(2, [20, 21, 22, 23, 24], [30, 2])]
    training = LoraTraining(base, model, rows, rows, settings, seed=0, bf16=False, folder=tmp_path / "work")
    training.batches = [[0, 1]]
    loss = training._step()
    found = {name: p.grad.clone() for name, p in training.parameters.items()}
    fresh = with_lora(load_base(tmp_path / "model", CPU), settings, "tiny", 0)
    total = 0.0
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.answer_ids])
        labels = ids.clone()
        labels[:, : len(row.prompt_ids)] = -100
        part = fresh(input_ids=ids, labels=labels).loss * len(row.answer_ids) / 5
        part.backward()
        total += float(part.detach())
    assert loss == pytest.approx(total, rel=1e-5)
    parameters = {name: p.grad for name, p in fresh.named_parameters() if p.requires_grad}
    assert any(bool(gradient.any()) for gradient in parameters.values())
    for name, gradient in parameters.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name


@pytest.mark.parametrize("variant", ["llama-heads-and-biases", "gemma3_text", "gemma3", "granite", "phi3", "qwen3"])
def test_a_checkpoint_becomes_the_model_that_it_was(variant: str, tiny_checkpoint) -> None:
    base = load_base(tiny_checkpoint(variant), CPU)
    ids = torch.tensor([[5, 17, 40, 99, 23, 61]])
    with torch.no_grad():
        expected = tiny_model(variant)(input_ids=ids).logits
        found = base.logits(base.model.model(input_ids=ids).last_hidden_state)
    assert torch.allclose(found, expected, atol=2e-4)


def test_models_and_targets_that_cannot_be_trained_are_refused(tiny_checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="mixture of experts"):
        load_base(tiny_checkpoint("mixtral"), CPU)
    base = load_base(save_task_model(tmp_path), CPU)
    with pytest.raises(ModelLoadError, match=r"no linear layers lm_head .* it has q_proj"):
        with_lora(base, LoraSettings(targets=("lm_head",)), "tiny", 0)


def test_the_rate_warms_up_and_comes_down() -> None:
    settings = LoraSettings(warm_up_share=0.1, final_share=0.2)
    assert rate(0, 100, settings) == 0.1 and rate(9, 100, settings) == 1.0
    assert rate(55, 100, settings) == pytest.approx(0.6) and rate(100, 100, settings) == pytest.approx(0.2)
