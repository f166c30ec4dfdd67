"""Adapters applied in mixed batches against transformers with the same adapters merged into its weights.

Both sides compute in float32: the reference as ``(W + scale * B A) x``, ours as ``W x + scale * B (A x)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers_reference import transformers_logits

from lora_models import merge, random_tensors, write_adapter
from paceline.adapters.peft import read_adapter
from paceline.backends.base import Backend
from paceline.models.loading import load_model
from paged_runner import Chunk, PagedRunner
from tiny_models import tiny_model

#: What differs in where adapters go: plain; odd widths and biases; fused modules; multimodal names, norms on both sides
#: and windows; norms behind; multipliers; per-head norms; layers with experts beside dense ones, and without any.
VARIANTS = [
    "smollm2", "llama-heads-and-biases", "phi3", "gemma2", "gemma3", "olmo2", "granite", "qwen2", "qwen3", "smollm3",
    "mistral", "qwen3_moe", "mixtral",
]  # fmt: skip
TOLERANCE = 2e-5  # of the largest logit

#: Slot, rank and alpha of each adapter. A rank that fills two vectors, one that does not fill one, and 1.
ADAPTERS = [(5, 24, 12.0), (0, 3, 3.0), (63, 1, 0.5)]
SLOT_OF = {0: 5, 1: 0, 3: 63}  # sequence 2 has the base model
STEPS = [
    [(0, 9), (2, 3)],
    [(1, 1), (0, 1), (2, 12), (3, 2)],
    [(3, 11), (1, 13)],
    [(0, 1), (1, 1), (2, 1), (3, 1)],
    [(2, 1)],
    [(0, 8), (3, 1), (1, 1)],
]
SEQUENCES = [[(11 * i + 7 * s + i * i) % 130 + 3 for i in range(19)] for s in range(4)]

each_variant = pytest.mark.parametrize("variant", VARIANTS)


def run_ragged(runner: PagedRunner) -> list[torch.Tensor]:
    """Logits of all computed rows of each sequence."""
    found: list[list[torch.Tensor]] = [[] for _ in SEQUENCES]
    for step in STEPS:
        chunks: list[Chunk] = []
        for index, count in step:
            done = runner.lengths.get(index, 0)
            chunks.append((index, SEQUENCES[index][done : done + count]))
        parts = runner.step(chunks).split([count for _, count in step])
        for (index, _), part in zip(step, parts, strict=True):
            found[index].append(part)
    return [torch.cat(parts) for parts in found]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    error, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    assert error < TOLERANCE * largest, f"logits differ by {error:.2e}; the largest is {largest:.2f}"


@each_variant
def test_each_sequence_of_a_mixed_batch_has_the_logits_of_its_merged_model(
    variant: str, backend: Backend, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(tiny_checkpoint(variant), backend)
    runner = PagedRunner(model, backend)
    expected = {2: transformers_logits(tiny_model(variant), [SEQUENCES[2]])[0]}
    for (slot, rank, alpha), sequence in zip(ADAPTERS, SLOT_OF, strict=True):
        reference = tiny_model(variant)
        tensors = random_tensors(reference, rank, seed=slot)
        adapter = read_adapter(
            write_adapter(tmp_path / str(slot), tensors, r=rank, lora_alpha=alpha), model.adapter_shapes, "tiny"
        )
        backend.load_adapter(slot, adapter.parts)
        expected[sequence] = transformers_logits(merge(reference, tensors, alpha / rank), [SEQUENCES[sequence]])[0]
    runner.adapters = dict(SLOT_OF)
    for sequence, logits in enumerate(run_ragged(runner)):
        assert_close(logits, expected[sequence][: len(logits)])
        others = [other for other in SLOT_OF if other != sequence]
        assert all(not torch.equal(logits[0], expected[other][0]) for other in others)


@each_variant
def test_a_row_has_the_same_bits_whatever_adapters_are_in_the_step(
    variant: str, backend: Backend, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(tiny_checkpoint(variant), backend)
    for slot, rank, alpha in ADAPTERS:
        folder = write_adapter(
            tmp_path / str(slot), random_tensors(tiny_model(variant), rank, seed=slot), r=rank, lora_alpha=alpha
        )
        backend.load_adapter(slot, read_adapter(folder, model.adapter_shapes, "tiny").parts)
    together = PagedRunner(model, backend)
    together.adapters = dict(SLOT_OF)
    mixed = run_ragged(together)
    for sequence, expected in enumerate(mixed):
        alone = PagedRunner(model, backend)
        if sequence in SLOT_OF:
            alone.adapters = {0: SLOT_OF[sequence]}
        tokens = SEQUENCES[sequence][: len(expected)]
        assert torch.equal(alone.run(0, tokens, chunk=1), expected), f"sequence {sequence}"


def test_each_path_of_a_token_tree_has_the_logits_of_the_text_it_stands_for(
    backend: Backend, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(tiny_checkpoint("llama"), backend)
    for slot, rank, _ in ADAPTERS:
        folder = write_adapter(tmp_path / str(slot), random_tensors(tiny_model("llama"), rank, seed=slot), r=rank)
        backend.load_adapter(slot, read_adapter(folder, model.adapter_shapes, "tiny").parts)
    runner = PagedRunner(model, backend)
    runner.adapters = dict(SLOT_OF)
    for sequence, tokens in enumerate(SEQUENCES):
        runner.step([(sequence, tokens)])
    tree, parents = [50, 51, 52, 53, 54], [-1, 0, 0, 1, -1]
    paths = [[50], [50, 51], [50, 52], [50, 51, 53], [54]]
    logits = runner.step([(sequence, tree) for sequence in range(4)], parents=[parents] * 4).split(len(tree))
    for sequence, rows in enumerate(logits):
        for row, path in zip(rows, paths, strict=True):
            straight = PagedRunner(model, backend)
            straight.adapters = {0: SLOT_OF.get(sequence, -1)}
            assert torch.equal(row, straight.run(0, [*SEQUENCES[sequence], *path], chunk=24)[-1])


def logits_of(runner: PagedRunner, slot: int, tokens: Sequence[int]) -> torch.Tensor:
    runner.lengths.clear()
    runner.adapters = {0: slot}
    return runner.run(0, tokens, chunk=len(tokens))


def test_adapters_come_and_go_between_steps_of_one_program(
    backend: Backend, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(tiny_checkpoint("smollm2"), backend)
    runner = PagedRunner(model, backend)
    base = logits_of(runner, -1, SEQUENCES[0])
    folders = [
        write_adapter(tmp_path / name, random_tensors(tiny_model("smollm2"), rank, seed=rank, targets=targets), r=rank)
        for name, rank, targets in (("a", 8, ["q_proj"]), ("b", 40, ["up_proj", "o_proj"]))
    ]
    a, b = (read_adapter(folder, model.adapter_shapes, "tiny").parts for folder in folders)
    backend.load_adapter(3, a)
    with_a = logits_of(runner, 3, SEQUENCES[0])
    backend.load_adapter(3, b)  # in place of a
    backend.load_adapter(4, a)
    with_b = logits_of(runner, 3, SEQUENCES[0])
    assert not torch.equal(base, with_a) and not torch.equal(with_a, with_b)
    assert torch.equal(logits_of(runner, 4, SEQUENCES[0]), with_a)
    backend.unload_adapter(3)
    assert torch.equal(logits_of(runner, 4, SEQUENCES[0]), with_a)
    assert torch.equal(logits_of(runner, -1, SEQUENCES[0]), base)
    with pytest.raises((ValueError, AssertionError), match="adapter slot 3, which is empty"):
        logits_of(runner, 3, SEQUENCES[0])
    assert torch.equal(logits_of(runner, -1, SEQUENCES[0]), base), "a refused step harms the next one"
