"""Adapters on the native backend: what the kernels add, and that nobody else in the step notices."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from cpu_programs import VARIANTS, CpuBackend, dense, each_variant, ints, noise, one_sequence, open_backend, quantized
from quantized_models import CONFIGS, VOCABULARY, RandomCheckpoint

from paceline.backends.base import Batch, Ops
from paceline.backends.lora import LoraPart, Site
from paceline.errors import AdapterError
from paceline.models.loading import load_checkpoint
from paceline.quantization.packed import PackedWeight
from paged_runner import PagedRunner

WIDTH, ROWS = 160, 21
#: Slots and ranks: one that fills no vector, odd ones, several vectors.
RANKS = {0: 8, 7: 33, 63: 1, 20: 16}
#: The slot of each row; -1: the base model.
SLOTS = [-1, 0, 7, 63, 0, 0, 20, -1, 7, 7, 7, 7, 7, 7, 7, 7, 7, -1, 20, 63, 0]

each_model = pytest.mark.parametrize("name", CONFIGS)


def make_part(outs: int, columns: int, rank: int, seed: int) -> LoraPart:
    a, b = noise(rank, columns, seed=seed) / columns**0.5, noise(outs, rank, seed=seed + 1) / rank**0.5
    return LoraPart(a, b, 0.75)


def rows_batch(slots: Sequence[int], rows: Sequence[int] | None = None) -> Batch:
    """One row each of as many sequences, which programs without attention do not tell from one sequence."""
    rows = list(range(len(slots))) if rows is None else rows
    batch = one_sequence(rows)
    count = len(rows)
    return replace(
        batch,
        row_starts=ints(range(count + 1)),
        context_lens=ints([0] * count),
        block_tables=np.repeat(batch.block_tables, count, axis=1),
        adapters=ints(slots),
    )


class Updated:
    """A product whose parts adapters update, between an exact embedding and an exact head."""

    def __init__(self, variant: str, weights: Sequence[PackedWeight], threads: int = 1, gated: bool = False) -> None:
        self.x = noise(ROWS, WIDTH)
        self.backend = backend = open_backend(variant, threads, blocks=2)
        self.widths = [weight.shape[0] for weight in weights]
        outs = self.widths[0] if gated else sum(self.widths)
        table, identity = backend.matrix([dense(self.x)]), backend.matrix([dense(torch.eye(outs))])
        sites: list[Site] = [(2, "gate"), (2, "up")] if gated else [(2, part) for part in "qkv"][: len(weights)]
        bias = backend.vector(noise(outs))
        if gated:
            gate, up = (backend.matrix([w], [site]) for w, site in zip(weights, sites, strict=True))
        else:
            matrix = backend.matrix(weights, sites)

        def build(ops: Ops) -> None:
            x = ops.embed(table)
            y = ops.gated_linear(x, gate, up, "silu") if gated else ops.linear(x, matrix, bias)
            ops.logits(ops.select(y), identity)

        self.program = backend.compile(build, 64)
        self.parts: dict[int, dict[Site, LoraPart]] = {}
        for slot, rank in RANKS.items():
            # Adapter 20 leaves the last weight alone, adapter 63 all but the last.
            own = {20: sites[:-1] or sites, 63: sites[-1:]}.get(slot, sites)
            self.parts[slot] = {
                site: make_part(self.widths[sites.index(site)], WIDTH, rank, seed=slot + sites.index(site))
                for site in own
            }
            backend.load_adapter(slot, self.parts[slot])
        self.sites = sites

    def __call__(self, slots: Sequence[int] | None, rows: Sequence[int] | None = None) -> torch.Tensor:
        batch = rows_batch(SLOTS, rows) if slots is None else rows_batch(slots, rows)
        return self.program.run(batch).logits.clone()

    def without_adapters(self) -> torch.Tensor:
        return self.program.run(replace(rows_batch(SLOTS), adapters=None)).logits.clone()

    def update(self, row: int, part: int) -> torch.Tensor:
        """What is added to a row's product with one of the weights, in float64."""
        lora = self.parts.get(SLOTS[row], {}).get(self.sites[part])
        if lora is None:
            return torch.zeros(self.widths[part], dtype=torch.float64)
        return lora.scale * (self.x[row].double() @ lora.a.double().T) @ lora.b.double().T


def weights_of(kind: str) -> list[PackedWeight]:
    """Three stacked weights; widths that fill no tile, several, and several and a bit."""
    kinds = ["q4", "q8", "bf16"] if kind == "mixed" else [kind] * 3
    return [
        quantized(k, rows, WIDTH) if k in ("q4", "q8") else dense(noise(rows, WIDTH) / WIDTH**0.5, k)
        for k, rows in zip(kinds, (40, 12, 35), strict=True)
    ]


KINDS = ["f32", "f16", "bf16", "q4", "q8", "mixed"]
#: Largest error against the update in float64, of the largest update: int8 activations, or numbers in bfloat16.
ERRORS = {"f32": 1e-6, "f16": 1e-6, "bf16": 0.02, "q4": 0.03, "q8": 0.03, "mixed": 0.03}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_variant
@each_kind
def test_a_row_gets_the_update_of_its_adapter_on_top_of_its_product(variant: str, kind: str) -> None:
    updated = Updated(variant, weights_of(kind))
    added = (updated(None) - updated.without_adapters()).double()
    for row, slot in enumerate(SLOTS):
        expected = torch.cat([updated.update(row, part) for part in range(3)])
        error = (added[row] - expected).abs().max().item()
        assert error <= ERRORS[kind] * max(expected.abs().max().item(), 1.0), f"row {row}, slot {slot}"
    assert not added[0].any(), "a row of the base model was changed"


@each_variant
def test_gate_and_up_are_updated_before_the_activation(variant: str) -> None:
    weights = [dense(noise(40, WIDTH, seed=seed) / WIDTH**0.5) for seed in (1, 2)]
    updated = Updated(variant, weights, gated=True)
    found = updated(None)
    for row in range(ROWS):
        gate, up = (
            updated.x[row].double() @ weight.data.double().T + updated.update(row, part)
            for part, weight in enumerate(weights)
        )
        torch.testing.assert_close(found[row].double(), torch.nn.functional.silu(gate) * up, rtol=1e-5, atol=1e-5)


@each_variant
@pytest.mark.parametrize("gated", [False, True], ids=["linear", "gated"])
@each_kind
def test_a_row_in_any_company_is_the_row_alone(variant: str, kind: str, gated: bool) -> None:
    weights = [weights_of(kind)[0]] * 2 if gated else weights_of(kind)
    updated, order = Updated(variant, weights, gated=gated), random.Random(0)
    alone = torch.cat([updated([SLOTS[row]], [row]) for row in range(ROWS)])
    assert torch.equal(updated(None), alone)
    for count in (2, 3, 8, 9, 17, ROWS):
        rows = [order.randrange(ROWS) for _ in range(count)]
        assert torch.equal(updated([SLOTS[row] for row in rows], rows), alone[rows]), f"rows {rows}"
    base = updated.without_adapters()
    unchanged = [row for row in range(ROWS) if SLOTS[row] == -1]
    assert torch.equal(base[unchanged], alone[unchanged])
    assert torch.equal(updated([-1] * ROWS), base)


@each_variant
@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads_gives_the_same_bits(variant: str, threads: int) -> None:
    one, several = Updated(variant, weights_of("mixed")), Updated(variant, weights_of("mixed"), threads)
    for _ in range(3):
        assert torch.equal(several(None), one(None))


# Whole models


def load(name: str, variant: str, threads: int = 1) -> PagedRunner:
    backend = CpuBackend(threads=threads, variant=variant)
    model = load_checkpoint(RandomCheckpoint(name), backend)
    for slot, rank in RANKS.items():
        parts = {s: make_part(*shape, rank, seed=slot + s[0]) for s, shape in model.adapter_shapes.items()}
        backend.load_adapter(slot, parts)
    return PagedRunner(model, backend, dtype="f16", num_blocks=64, max_rows=300)


def texts(count: int, length: int) -> list[list[int]]:
    choose = random.Random(3)
    return [[choose.randrange(1, VOCABULARY) for _ in range(length)] for _ in range(count)]


@each_variant
@each_model
def test_logits_do_not_depend_on_the_batch_its_adapters_or_its_chunks(variant: str, name: str) -> None:
    slots, sequences = [-1, 0, 7, 63, 20, 0], texts(6, 45)
    alone = load(name, variant)
    alone.adapters = {i: slot for i, slot in enumerate(slots) if slot >= 0}
    expected = [alone.run(i, tokens, chunk=1) for i, tokens in enumerate(sequences)]
    assert all(not torch.equal(a[0], b[0]) for i, a in enumerate(expected[:5]) for b in expected[:i])
    assert torch.equal(expected[0], load(name, variant).run(0, sequences[0], chunk=7)), "the base model's rows changed"

    choose, together = random.Random(1), load(name, variant, threads=3)
    together.adapters = alone.adapters
    done = [0] * 6
    while any(start < 45 for start in done):
        counts = {i: min(choose.choice([0, 1, 1, 2, 9, 20]), 45 - done[i]) for i in range(6)}
        chunks = [(i, sequences[i][done[i] : done[i] + count]) for i, count in counts.items() if count]
        if not chunks:
            continue
        logits = together.step(chunks).split([len(tokens) for _, tokens in chunks])
        for (i, tokens), rows in zip(chunks, logits, strict=True):
            assert torch.equal(rows, expected[i][done[i] : done[i] + len(tokens)]), f"sequence {i}"
            done[i] += len(tokens)


@each_variant
def test_token_trees_of_several_adapters_equal_their_texts(variant: str) -> None:
    slots, sequences = {0: 7, 1: 0, 3: 20}, texts(4, 20)
    tree, parents = [3, 4, 5, 6, 7], [-1, 0, 0, 1, -1]
    paths = [[3], [3, 4], [3, 5], [3, 4, 6], [7]]
    runner = load("gemma2", variant)
    runner.adapters = slots
    for i, tokens in enumerate(sequences):
        runner.step([(i, tokens)])
    logits = runner.step([(i, tree) for i in range(4)], parents=[parents] * 4).split(len(tree))
    straight = load("gemma2", variant)
    for i, rows in enumerate(logits):
        for row, path in zip(rows, paths, strict=True):
            number = len(straight.lengths)
            straight.adapters = {number: slots.get(i, -1)}
            assert torch.equal(row, straight.run(number, [*sequences[i], *path], chunk=30)[-1])


# Loading


def test_an_adapter_that_does_not_fit_leaves_the_slot_as_it_was() -> None:
    updated = Updated(VARIANTS[0], weights_of("q8"))
    before = updated(None)
    wrong: list[tuple[Mapping[Site, LoraPart], str]] = [
        ({(3, "q"): make_part(40, WIDTH, 4, 0)}, "'q' of layer 3, which the model does not have"),
        ({(2, "o"): make_part(40, WIDTH, 4, 0)}, "'o' of layer 2, which the model does not have"),
        ({(2, "q"): make_part(41, WIDTH, 4, 0)}, r"A \[4, 160\] and B \[41, 4\]; the weight \[40, 160\] needs"),
        ({(2, "q"): make_part(40, 64, 4, 0)}, r"A \[4, 64\] and B"),
        ({(2, "q"): LoraPart(torch.ones(4, WIDTH), torch.ones(40, 3), 1.0)}, r"B \[40, 3\]"),
        ({(2, "q"): LoraPart(torch.ones(0, WIDTH), torch.ones(40, 0), 1.0)}, r"A \[0, 160\]"),
    ]
    for parts, message in wrong:
        with pytest.raises(AdapterError, match=message):
            updated.backend.load_adapter(0, parts)
    assert torch.equal(updated(None), before)


def test_a_step_that_names_an_empty_slot_is_refused_and_harms_nothing() -> None:
    updated = Updated(VARIANTS[0], weights_of("q8"))
    before = updated(None)
    for slots in ([5] * ROWS, [-1] * (ROWS - 1) + [64]):
        with pytest.raises(ValueError, match=f"adapter slot {slots[-1]}, which is empty"):
            updated(slots)
    with pytest.raises(ValueError, match="each sequence needs an adapter slot"):
        updated.program.run(replace(rows_batch(SLOTS), adapters=ints([0])))
    assert torch.equal(updated(None), before)
    updated.backend.unload_adapter(7)
    with pytest.raises(ValueError, match="adapter slot 7, which is empty"):
        updated(None)
    updated.backend.unload_adapter(7)  # nothing to do
    others = [row for row in range(ROWS) if SLOTS[row] != 7]
    assert torch.equal(updated([SLOTS[row] for row in others], others), before[others])


def test_programs_compiled_later_know_the_loaded_adapters() -> None:
    updated = Updated(VARIANTS[0], weights_of("f32"))
    later = updated.backend
    table, weight = later.matrix([dense(updated.x)]), later.matrix([weights_of("f32")[0]], [(2, "q")])
    identity = later.matrix([dense(torch.eye(40))])
    build = lambda ops: ops.logits(ops.select(ops.linear(ops.embed(table), weight)), identity)  # noqa: E731
    program = later.compile(build, 64)
    added = program.run(rows_batch(SLOTS)).logits.clone() - program.run(rows_batch([-1] * ROWS)).logits
    expected = torch.stack([updated.update(row, 0) for row in range(ROWS)])
    torch.testing.assert_close(added.double(), expected, rtol=1e-4, atol=1e-5)
