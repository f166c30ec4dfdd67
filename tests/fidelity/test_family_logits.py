"""Logits of every family against transformers (float32, eager attention), however the tokens are batched.

Both sides compute in float32, in different orders. Against float64 the logits of ``transformers`` are off by up to
3e-6 of the largest logit, and ours by as much; the tolerance leaves room for other machines' sums. An error of
substance is far above it: a rotary base that is off by 1% moves these models' logits by more than 1e-3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers_reference import Reference

from paceline.backends.base import Backend
from paged_runner import Chunk, PagedRunner
from tiny_models import CONFIGS, WINDOW

TOLERANCE = 2e-5  # of the largest logit

GetReference = Callable[[str], Reference]
each_variant = pytest.mark.parametrize("variant", CONFIGS)

#: Steps of (sequence, rows): chunks of several prompts beside single rows, sequences that come and pause.
RAGGED_STEPS = [
    [(0, 7)],
    [(0, 1), (1, 10)],
    [(0, 1), (1, 1), (2, 5)],
    [(2, 16), (0, 1)],
    [(0, 20), (1, 3), (2, 1)],
    [(1, 1)],
    [(2, 8), (1, 8), (0, 1)],
    [(0, 14), (2, 1)],
]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    error, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    assert error < TOLERANCE * largest, f"logits differ by {error:.2e}; the largest is {largest:.2f}"


def run_ragged(runner: PagedRunner, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits of each sequence, computed by ``RAGGED_STEPS``."""
    logits: list[list[torch.Tensor]] = [[] for _ in sequences]
    for step in RAGGED_STEPS:
        chunks: list[Chunk] = []
        for index, count in step:
            done = runner.lengths.get(index, 0)
            chunks.append((index, sequences[index][done : done + count]))
        parts = runner.step(chunks).split([len(tokens) for _, tokens in chunks])
        for (index, _), part in zip(chunks, parts, strict=True):
            logits[index].append(part)
    return [torch.cat(parts) for parts in logits]


@each_variant
def test_logits_equal_transformers_in_one_prefill(variant: str, backend: Backend, reference: GetReference) -> None:
    expected = reference(variant)
    runner = expected.runner(backend)
    for index, (tokens, logits) in enumerate(zip(expected.sequences, expected.logits, strict=True)):
        assert_close(runner.run(index, tokens, chunk=len(tokens)), logits)


@each_variant
def test_logits_equal_transformers_in_ragged_batches(variant: str, backend: Backend, reference: GetReference) -> None:
    expected = reference(variant)
    found = run_ragged(expected.runner(backend), expected.sequences)
    for rows, logits in zip(found, expected.logits, strict=True):
        assert len(rows) == len(logits), "the steps do not cover the sequence"
        assert_close(rows, logits)


@each_variant
def test_logits_step_by_step_are_bit_identical_to_ragged_ones(
    variant: str, backend: Backend, reference: GetReference
) -> None:
    expected = reference(variant)
    steps, ragged = expected.runner(backend), None
    alone = [steps.run(index, tokens, chunk=1) for index, tokens in enumerate(expected.sequences)]
    for rows, logits in zip(alone, expected.logits, strict=True):
        assert_close(rows, logits)
    ragged = run_ragged(expected.runner(backend), expected.sequences)
    for one, other in zip(alone, ragged, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("variant", ["mistral", "phi3", "mixtral-sliding"])
def test_a_token_out_of_every_window_changes_nothing(variant: str, backend: Backend, reference: GetReference) -> None:
    expected = reference(variant)
    tokens = expected.sequences[0]
    runner = expected.runner(backend)
    assert runner.cache.group_windows == (WINDOW,)
    first = runner.run(0, tokens, chunk=9)
    assert -1 in runner.tables[0][0], "no block was released: the sequence is too short for this test"
    second = runner.run(1, [tokens[0] + 1, *tokens[1:]], chunk=9)
    reach = len(runner.cache.layer_group) * (WINDOW - 1)  # how far a token is seen, layer upon layer
    assert torch.equal(first[reach + 1 :], second[reach + 1 :])
    assert not torch.equal(first[WINDOW - 1], second[WINDOW - 1])


@pytest.mark.parametrize("variant", ["gemma2", "gemma3_text", "qwen2-sliding"])
def test_local_layers_release_blocks_that_global_layers_keep(
    variant: str, backend: Backend, reference: GetReference
) -> None:
    expected = reference(variant)
    runner = expected.runner(backend)
    assert runner.cache.group_windows == (0, WINDOW)
    assert_close(runner.run(0, expected.sequences[0], chunk=6), expected.logits[0])
    kept, released = runner.tables[0]
    assert -1 not in kept
    assert released[:2] == [-1, -1]


@pytest.mark.parametrize("variant", ["llama", "gemma2", "gemma3_text", "smollm3", "mistral"])
def test_each_path_of_a_token_tree_equals_the_text_it_stands_for(
    variant: str, backend: Backend, reference: GetReference
) -> None:
    expected = reference(variant)
    runner = expected.runner(backend)
    text = expected.sequences[0][:30]
    runner.run(0, text, chunk=30)
    runner.run(1, expected.sequences[1], chunk=23)
    #             0 ─┬─ 1 ─┬─ 3          a second root beside it: 5 ── 6
    #                └─ 2  └─ 4
    tree, parents = [50, 51, 52, 53, 54, 55, 56], [-1, 0, 0, 1, 1, -1, 5]
    logits = runner.step([(0, tree), (1, [60, 61])], parents=[parents, [-1, 0]])
    for row, path in enumerate([[50], [50, 51], [50, 52], [50, 51, 53], [50, 51, 54], [55], [55, 56]]):
        straight = expected.runner(backend).run(0, [*text, *path], chunk=40)
        assert_close(logits[row], straight[-1])


def test_only_wanted_rows_give_logits(backend: Backend, reference: GetReference) -> None:
    expected = reference("llama")
    chunks = [(0, expected.sequences[0]), (1, expected.sequences[1])]
    logits = expected.runner(backend).step(chunks, wanted=[44, 45, 67])
    assert_close(logits, torch.stack([expected.logits[0][44], expected.logits[1][0], expected.logits[1][22]]))
    assert expected.runner(backend).step(chunks, wanted=[]).shape == (0, logits.shape[1])
