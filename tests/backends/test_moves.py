"""Keys and values that change their slots, and backends that share a machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from paceline.backends.base import Backend, CacheDtype
from paceline.backends.registry import get_backend
from paceline.errors import PacelineError
from paceline.models.loading import load_model
from paged_runner import PagedRunner

TOKENS = [(13 * i + i * i) % 140 + 3 for i in range(40)]
WINDOWED = "gemma3_text"  # two cache groups


@pytest.fixture(params=["torch", "cpu"])
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        return get_backend(request.param)
    except PacelineError as error:
        pytest.skip(str(error))


def slots_of(runner: PagedRunner, sequence: int, places: list[int]) -> np.ndarray:
    """Slots [groups, places] in which the sequence's tokens lie."""
    size = runner.cache.block_size
    tables = runner.tables[sequence]
    return np.array([[table[p // size] * size + p % size for p in places] for table in tables], dtype=np.int32)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("variant", ["llama", "llama-heads-and-biases", WINDOWED])
@pytest.mark.parametrize(
    "path", [[2, 5, 6], [1], [1, 2, 3], [3, 4, 5, 6, 7, 8], [0, 2, 3, 9, 17, 18]], ids=lambda path: f"path{path}"
)
def test_a_path_that_was_moved_together_is_the_path_computed_in_its_place(
    variant: str, dtype: CacheDtype, path: list[int], backend: Backend, tiny_checkpoint: Callable[[str], Path]
) -> None:
    """Rows of a chain are computed as a tree: each a child of the one before it on the path, the others beside it. The
    places cross the border of a block."""
    context, rows = 11, max(path) + 1
    model = load_model(tiny_checkpoint(variant), backend)
    expected = PagedRunner(model, backend, dtype=dtype)
    straight = TOKENS[:context] + [100 + i for i in range(len(path))]
    expected.run(0, straight, chunk=len(straight))
    after = expected.step([(0, [7, 8])])

    runner = PagedRunner(model, backend, dtype=dtype, seed=4)
    runner.run(0, TOKENS[:context], chunk=4)
    tokens, parents = [50] * rows, [-1] * rows
    for i, row in enumerate(path):
        tokens[row], parents[row] = 100 + i, path[i - 1] if i else -1
    runner.step([(0, tokens)], [parents])
    places = [context + row for row in path], [context + i for i in range(len(path))]
    backend.move(slots_of(runner, 0, places[0]), slots_of(runner, 0, places[1]))
    runner.lengths[0] += len(path)
    assert torch.equal(runner.step([(0, [7, 8])]), after)


def test_moves_of_several_sequences_go_in_one_call(backend: Backend, tiny_checkpoint: Callable[[str], Path]) -> None:
    """Sequence 1 takes over the keys of sequence 0, and leaves others alone."""
    model = load_model(tiny_checkpoint(WINDOWED), backend)
    runner = PagedRunner(model, backend)
    for sequence in range(3):
        runner.run(sequence, [sequence + 5, *TOKENS[1:9]], chunk=9)
    first, second, third = (slots_of(runner, sequence, list(range(9))) for sequence in range(3))
    before = runner.step([(0, [9]), (2, [9])])
    backend.move(np.concatenate([first, third], axis=1), np.concatenate([second, third], axis=1))
    again = runner.step([(1, [9])])
    assert torch.equal(again[0], before[0]) and not torch.equal(before[0], before[1])


def test_nothing_to_move_is_no_error(backend: Backend, tiny_checkpoint: Callable[[str], Path]) -> None:
    PagedRunner(load_model(tiny_checkpoint("llama"), backend), backend)
    backend.move(np.zeros((1, 0), dtype=np.int32), np.zeros((1, 0), dtype=np.int32))


@pytest.mark.parametrize("slot", [-1, 24 * 16])
def test_the_native_cache_refuses_slots_outside_of_it(slot: int, tiny_checkpoint: Callable[[str], Path]) -> None:
    cpu = pytest.importorskip("paceline.backends.cpu.backend")
    backend = cpu.CpuBackend(threads=1)
    PagedRunner(load_model(tiny_checkpoint("llama"), backend), backend)
    for pair in ((slot, 0), (0, slot)):
        sources, targets = (np.array([[value]], dtype=np.int32) for value in pair)
        with pytest.raises(ValueError, match="outside of the cache"):
            backend.move(sources, targets)


def test_siblings_share_the_machine_and_nothing_else(backend: Backend, tiny_checkpoint: Callable[[str], Path]) -> None:
    """Two models in turns, step by step, give what each gives alone, though their slots have the same numbers."""
    variants = ["llama", WINDOWED]
    alone = []
    for variant in variants:
        single = get_backend(backend.name)
        alone.append(PagedRunner(load_model(tiny_checkpoint(variant), single), single).run(0, TOKENS[:12], chunk=1))
    backends = [backend, backend.sibling()]
    runners = [
        PagedRunner(load_model(tiny_checkpoint(variant), own), own)
        for variant, own in zip(variants, backends, strict=True)
    ]
    for place, token in enumerate(TOKENS[:12]):
        for runner, expected in zip(runners, alone, strict=True):
            assert torch.equal(runner.step([(0, [token])])[0], expected[place])
    assert backends[1].name == backend.name


def test_a_native_sibling_outlives_its_brother(tiny_checkpoint: Callable[[str], Path]) -> None:
    cpu = pytest.importorskip("paceline.backends.cpu.backend")
    first = cpu.CpuBackend(threads=2)
    second = first.sibling()
    assert second.threads == 2
    runner = PagedRunner(load_model(tiny_checkpoint("llama"), second), second)
    expected = runner.run(0, TOKENS[:9], chunk=9)
    del first
    assert torch.equal(runner.run(1, TOKENS[:9], chunk=1), expected)
