"""Whole quantized models on the native backend: logits are bit-identical however the rows were computed.

The reference is always the same: one sequence, one row a step, one thread. Its long contexts are computed in parallel
pieces, those of many sequences are not.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import pytest
import torch
from cpu_programs import VARIANTS, CpuBackend, each_variant
from quantized_models import CONFIGS, VOCABULARY, RandomCheckpoint

from paceline.backends.base import MAX_TREE_ROWS, CacheDtype
from paceline.models.loading import load_checkpoint
from paged_runner import PagedRunner

LENGTH = 290  # tokens: more than two of the pieces that long contexts are cut into
MAX_ROWS = 300

each_model = pytest.mark.parametrize("name", CONFIGS)
each_dtype = pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])


def tokens(seed: int, length: int = LENGTH) -> list[int]:
    choose = random.Random(seed)
    return [choose.randrange(1, VOCABULARY) for _ in range(length)]


def make_runner(
    name: str, variant: str, dtype: CacheDtype = "f16", threads: int = 1, poison: int | None = None, seed: int = 0
) -> PagedRunner:
    backend = CpuBackend(threads=threads, variant=variant)
    model = load_checkpoint(RandomCheckpoint(name, poison), backend)
    return PagedRunner(model, backend, dtype=dtype, num_blocks=64, max_rows=MAX_ROWS, seed=seed)


@functools.cache
def reference(name: str, variant: str, dtype: CacheDtype = "f16", seed: int = 0) -> torch.Tensor:
    return make_runner(name, variant, dtype).run(0, tokens(seed), chunk=1)


def test_models_differ_and_depend_on_their_tokens() -> None:
    """The other tests compare results with each other; this one says that they are results."""
    found = [reference(name, VARIANTS[0], seed=seed) for name in CONFIGS for seed in (0, 1)]
    assert all(logits.isfinite().all() and logits.std() > 0.1 for logits in found)
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


@each_variant
@each_model
@each_dtype
def test_logits_do_not_depend_on_how_a_prompt_is_cut(variant: str, name: str, dtype: CacheDtype) -> None:
    expected = reference(name, variant, dtype)
    runner = make_runner(name, variant, dtype, seed=3)
    for sequence, chunk in enumerate((2, 5, 16, 23, 128, LENGTH)):
        assert torch.equal(runner.run(sequence, tokens(0), chunk), expected), f"chunks of {chunk}"
        free_sequence(runner, sequence)


@each_variant
@each_model
def test_logits_do_not_depend_on_company(variant: str, name: str) -> None:
    """Three sequences in random chunks of one to thirty rows, in random order, now and then absent from a step."""
    expected = [reference(name, variant, seed=seed) for seed in range(3)]
    runner, choose = make_runner(name, variant), random.Random(5)
    found: list[list[torch.Tensor]] = [[], [], []]
    left = {seed: tokens(seed) for seed in range(3)}
    while any(left.values()):
        present = [seed for seed in left if left[seed] and choose.random() < 0.8]
        choose.shuffle(present)
        chunks = [(seed, left[seed][: choose.choice((1, 1, 2, 7, 30))]) for seed in present]
        if not chunks:
            continue
        for (seed, part), logits in zip(chunks, runner.step(chunks).split([len(c[1]) for c in chunks]), strict=True):
            found[seed].append(logits)
            left[seed] = left[seed][len(part) :]
    for seed in range(3):
        assert torch.equal(torch.cat(found[seed]), expected[seed])


@each_variant
@each_model
def test_logits_do_not_depend_on_the_number_of_threads(variant: str, name: str) -> None:
    """More threads also mean more pieces of a context at once, and other cuts of a chunk into tasks."""
    expected = reference(name, variant)
    for threads in (2, 3):
        runner = make_runner(name, variant, threads=threads)
        found = [runner.step([(0, tokens(0)[: LENGTH - 7])])]
        found += [runner.step([(0, [token])]) for token in tokens(0)[LENGTH - 7 :]]
        assert torch.equal(torch.cat(found), expected), f"{threads} threads"


@each_variant
@each_model
def test_a_long_context_gives_the_same_bits_among_many(variant: str, name: str) -> None:
    """Alone, its keys are shared out among threads; among many sequences each is walked by one thread."""
    expected = reference(name, variant)
    runner = make_runner(name, variant, threads=2)
    runner.step([(0, tokens(0)[:-3])])
    crowd = [(sequence, tokens(sequence, 2)) for sequence in range(1, 18)]
    among_many = runner.step([*crowd, (0, tokens(0)[-3:-2])])[-1]
    among_some = runner.step([(0, tokens(0)[-2:-1]), crowd[0]])[0]
    alone = runner.step([(0, tokens(0)[-1:])])[-1]
    assert torch.equal(torch.stack([among_many, among_some, alone]), expected[-3:])


@each_variant
@each_model
@each_dtype
@pytest.mark.parametrize("context", [0, 5, 16, 130, 255])
def test_every_row_of_a_token_tree_equals_the_chain_that_leads_to_it(
    variant: str, name: str, dtype: CacheDtype, context: int
) -> None:
    choose = random.Random(context)
    runner = make_runner(name, variant, dtype)
    if context:
        runner.step([(0, tokens(0)[:context])])
    parents = [-1, 0, *(choose.randrange(-1, row) for row in range(2, 20))]
    nodes = tokens(9, len(parents))
    beside = (1, tokens(1)[:3])
    found = runner.step([(0, nodes), beside], [parents, [-1, 0, 1]])
    for row in (0, 1, 7, 13, 19):
        path = path_to(parents, row)
        chain = make_runner(name, variant, dtype)
        expected = chain.step([(0, tokens(0)[:context] + [nodes[i] for i in path])])[-len(path) :]
        assert torch.equal(found[path], expected), f"row {row}"


@each_variant
@each_model
@pytest.mark.parametrize("context", [120, 191, 262])
def test_tree_rows_that_share_a_context_give_the_same_bits_in_parallel_pieces(
    variant: str, name: str, context: int
) -> None:
    """Alone in the step: rows are computed several at a time, and their keys cut into pieces for three threads. The
    path of the last row crosses a block, and for the longest context a piece, behind the shared keys."""
    parents = [-1, 0, 1, 2, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 3, 13]
    nodes = tokens(9, len(parents))
    runner, chain = make_runner(name, variant, threads=3), make_runner(name, variant)
    runner.step([(0, tokens(0)[:context])])
    found = runner.step([(0, nodes)], [parents])
    for row in (len(parents) - 2, len(parents) - 1):
        path = path_to(parents, row)
        expected = chain.step([(row, tokens(0)[:context] + [nodes[i] for i in path])])[context:]
        assert torch.equal(found[path], expected), f"row {row}"


@each_variant
@each_model
def test_the_largest_trees_fit(variant: str, name: str) -> None:
    """As deep as a tree may be, behind the fullest last block there can be; and as wide."""
    context = 31
    nodes = tokens(9, MAX_TREE_ROWS)
    deep = [-1, -1, 0, *range(2, MAX_TREE_ROWS - 1)]
    wide = [-1] * MAX_TREE_ROWS
    runner, chain = make_runner(name, variant, threads=2), make_runner(name, variant)
    runner.step([(0, tokens(0)[:context]), (1, tokens(1)[:context])])
    found = runner.step([(0, nodes), (1, nodes)], [deep, wide])
    path = path_to(deep, MAX_TREE_ROWS - 1)
    expected = chain.step([(0, tokens(0)[:context] + [nodes[i] for i in path])])
    assert torch.equal(found[path], expected[context:])
    chain.step([(1, tokens(1)[:context])])
    assert torch.equal(found[MAX_TREE_ROWS + 17], chain.step([(1, nodes[17:18])])[0])


@each_variant
@each_model
def test_a_tree_that_is_a_chain_is_the_chain(variant: str, name: str) -> None:
    """Longer than a tree may be, too: the limit is on trees only."""
    count = MAX_TREE_ROWS + 9
    runner = make_runner(name, variant)
    found = runner.step([(0, tokens(0)[:count])], [list(range(-1, count - 1))])
    assert torch.equal(found, reference(name, variant)[:count])


@each_variant
@each_model
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_a_sequence_of_nans_disturbs_nobody(variant: str, name: str, dtype: CacheDtype) -> None:
    """Neither in the same step nor through the blocks it leaves behind. In bfloat16 the last value of an odd number of
    keys lies beside one of them."""
    poison = 0  # no other sequence has this token
    runner = make_runner(name, variant, dtype, poison=poison)
    alone = make_runner(name, variant, dtype, poison=poison)
    expected = {seed: alone.run(seed, tokens(seed, 70), chunk=35) for seed in (1, 2)}
    bad = [poison] * 35
    found = runner.step([(1, tokens(1)[:35]), (0, bad), (2, tokens(2)[:35])])
    assert torch.equal(found[:35], expected[1][:35]) and torch.equal(found[70:], expected[2][:35])
    assert found[35:70].isnan().all(), "a wrong number must show, not turn into a plausible one"
    found = runner.step([(0, bad), (2, tokens(2)[35:70]), (1, tokens(1)[35:70])])
    assert torch.equal(found[35:70], expected[2][35:]) and torch.equal(found[70:], expected[1][35:])
    free_sequence(runner, 0)
    again = runner.run(3, tokens(1, 70), chunk=9)
    assert torch.equal(again, expected[1])


def free_sequence(runner: PagedRunner, sequence: int) -> None:
    """Gives back all blocks of a sequence; they are the next to be handed out, as they are."""
    for free, table in zip(runner.free, runner.tables.pop(sequence), strict=True):
        free += [block for block in table if block >= 0]
    del runner.lengths[sequence]


def path_to(parents: Sequence[int], row: int) -> list[int]:
    path = []
    while row >= 0:
        path.insert(0, row)
        row = parents[row]
    return path
