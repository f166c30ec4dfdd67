"""Hidden states that a program gives to drafters, against transformers' ``output_hidden_states``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from paceline.backends.base import Backend
from paceline.backends.cpu.recorder import record
from paceline.errors import ModelLoadError
from paceline.models.loading import load_model
from paged_runner import Chunk, PagedRunner
from tiny_models import tiny_model

#: What differs in how the residual stream is made: plain, norms behind attention and MLP, no norms before them,
#: scaled additions, experts, biases.
VARIANTS = ["smollm2", "llama-heads-and-biases", "gemma2", "gemma3_text", "olmo2", "granite", "qwen3_moe"]
TOLERANCE = {"torch": 1e-5, "cpu": 2e-5}  # of the largest number

#: Steps of (sequence, rows): prefill and decode rows of several sequences side by side.
STEPS = [[(0, 9)], [(0, 1), (1, 14)], [(1, 1), (0, 3), (2, 5)], [(2, 1)], [(0, 1), (1, 1), (2, 1)]]
SEQUENCES = [[(11 * i + 7 * s + i * i) % 130 + 3 for i in range(16)] for s in range(3)]

each_variant = pytest.mark.parametrize("variant", VARIANTS)


@torch.no_grad()
def expected_states(model: PreTrainedModel, tokens: Sequence[int]) -> list[torch.Tensor]:
    """The residual stream [tokens, width] behind each layer. Transformers norms the last one; a hook sees it before."""
    raw: list[torch.Tensor] = []

    def see(module: object, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        raw.append(output[0] if isinstance(output, tuple) else output)

    hook = model.model.layers[-1].register_forward_hook(see)
    states = model(input_ids=torch.tensor([tokens]), output_hidden_states=True, use_cache=False).hidden_states
    hook.remove()
    return [state[0] for state in (*states[1:-1], raw[0])]


def run_ragged(runner: PagedRunner, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Hidden states of all computed rows of each sequence."""
    found: list[list[torch.Tensor]] = [[] for _ in sequences]
    for step in STEPS:
        done = [runner.lengths.get(index, 0) for index, _ in step]
        chunks: list[Chunk] = [
            (index, sequences[index][start : start + count]) for (index, count), start in zip(step, done, strict=True)
        ]
        runner.step(chunks, wanted=[])
        assert runner.hidden is not None and runner.hidden.dtype == torch.float32
        for (index, _), part in zip(step, runner.hidden.split([count for _, count in step]), strict=True):
            found[index].append(part)
    return [torch.cat(parts) for parts in found]


@each_variant
def test_hidden_states_equal_transformers_in_ragged_batches(
    variant: str, backend: Backend, tiny_checkpoint: Callable[[str], Path]
) -> None:
    model = load_model(tiny_checkpoint(variant), backend)
    layers = [0, 1, model.spec.num_layers - 1]
    found = run_ragged(PagedRunner(model, backend, capture=layers), SEQUENCES)
    for rows, tokens in zip(found, SEQUENCES, strict=True):
        states = expected_states(tiny_model(variant), tokens)
        expected = torch.cat([states[layer] for layer in layers], dim=1)[: len(rows)]
        error, largest = (rows - expected).abs().max().item(), expected.abs().max().item()
        assert error < TOLERANCE[backend.name] * largest, f"off by {error:.2e}; the largest is {largest:.2f}"


@each_variant
def test_a_rows_hidden_state_has_the_same_bits_in_any_company(
    variant: str, backend: Backend, tiny_checkpoint: Callable[[str], Path]
) -> None:
    model = load_model(tiny_checkpoint(variant), backend)
    together = run_ragged(PagedRunner(model, backend, capture=[0, 2]), SEQUENCES)
    for rows, tokens in zip(together, SEQUENCES, strict=True):
        runner = PagedRunner(model, backend, capture=[0, 2])
        for row, token in zip(rows, tokens, strict=False):
            runner.step([(0, [token])])
            assert runner.hidden is not None and torch.equal(runner.hidden[0], row)


@each_variant
def test_capturing_changes_no_logits(variant: str, backend: Backend, tiny_checkpoint: Callable[[str], Path]) -> None:
    model = load_model(tiny_checkpoint(variant), backend)
    every = range(model.spec.num_layers)
    plain = PagedRunner(model, backend)
    expected = plain.run(0, SEQUENCES[0], chunk=5)
    capturing = PagedRunner(model, backend, capture=every)
    assert torch.equal(capturing.run(0, SEQUENCES[0], chunk=5), expected)
    assert plain.hidden is None and capturing.hidden is not None


def test_a_model_that_captures_nothing_is_recorded_as_before(tiny_checkpoint: Callable[[str], Path]) -> None:
    cpu = pytest.importorskip("paceline.backends.cpu.backend")
    model = load_model(tiny_checkpoint("gemma2"), cpu.CpuBackend(threads=1))
    kinds = [node.kind for node in record(model.build)]
    assert [node.kind for node in record(model.build_with([]))] == kinds
    captured = [node.kind for node in record(model.build_with([1]))]
    assert captured.count("capture") == 1
    assert [kind for kind in captured if kind != "capture"] == kinds


def test_layers_come_out_in_ascending_order_however_they_were_named(
    backend: Backend, tiny_checkpoint: Callable[[str], Path]
) -> None:
    model = load_model(tiny_checkpoint("smollm2"), backend)
    states = []
    for layers in ([2, 0], [0, 2, 2]):
        runner = PagedRunner(model, backend, capture=layers)
        runner.step([(0, SEQUENCES[0])])
        assert runner.hidden is not None
        states.append(runner.hidden)
    assert torch.equal(*states)
    assert states[0].shape == (len(SEQUENCES[0]), 2 * model.spec.hidden_size)


@pytest.mark.parametrize("layers", [[3], [-1], [0, 17]])
def test_layers_that_the_model_does_not_have_are_refused(
    layers: list[int], backend: Backend, tiny_checkpoint: Callable[[str], Path]
) -> None:
    model = load_model(tiny_checkpoint("smollm2"), backend)
    with pytest.raises(ModelLoadError, match="the model has layers 0 to 2"):
        model.build_with(layers)
