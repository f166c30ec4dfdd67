"""The AMX variant, with its tile instructions emulated: the same bits as the AVX-512 variant it is built on.

The emulation aborts the process where the processor would fault: tiles used before their thread configured them, shapes
that do not fit.
"""

from __future__ import annotations

import pytest
import torch
from cpu_programs import VARIANTS, CpuBackend, RowFunction, noise, product, spread
from test_cpu_adapters import KINDS, Updated, weights_of
from test_cpu_models import CONFIGS, make_runner, reference, tokens
from test_cpu_products import LAYOUTS, columns_of, quantized
from test_cpu_row_invariance import FUNCTIONS, ROWS, make

from paceline import _cpu

BASE, EMULATED = "avx512-vnni-bf16", "amx-emulated"

pytestmark = pytest.mark.skipif(BASE not in VARIANTS, reason=f"this CPU cannot run {BASE}")


def test_the_emulation_is_offered_to_tests_only() -> None:
    assert dict(_cpu.test_variants()) == {EMULATED: dict(_cpu.variants())[BASE]}
    assert EMULATED not in VARIANTS
    assert CpuBackend(threads=1).variant == VARIANTS[0]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("outs, columns", [(16, 64), (33, 96), (7, 16), (200, 352)])
def test_products_of_any_number_of_rows(layout: dict, outs: int, columns: int) -> None:
    """Up to 4 rows of a block go to the vector unit, 5 to 8 to the tiles."""
    weight = quantized(rows=outs, columns=columns_of(layout, columns), **layout)
    for rows in (1, 4, 5, 6, 7, 8, 11, 13, 24):
        x = spread(rows, weight.shape[1])
        assert torch.equal(product(EMULATED, [weight], x), product(BASE, [weight], x)), f"{rows} rows"


@pytest.mark.parametrize("kind", KINDS)
def test_updates_of_adapters(kind: str) -> None:
    assert torch.equal(Updated(EMULATED, weights_of(kind))(None), Updated(BASE, weights_of(kind))(None))


def test_extreme_codes_and_activations() -> None:
    for kind in ("q4", "q8"):
        for minima in (False, True):
            weight = quantized(kind, 32, 128, minima=minima)
            x = 127.0 * noise(8, 128).sign()
            assert torch.equal(product(EMULATED, [weight], x), product(BASE, [weight], x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ops(name: str) -> None:
    """On several threads, each of which configures its own registers."""
    expected, function = make(name, BASE), make(name, EMULATED, threads=3)
    for rows in (range(ROWS), range(5), range(3, 12), range(2)):
        assert torch.equal(function(rows), expected(rows))


@pytest.mark.parametrize("name", CONFIGS)
def test_models(name: str) -> None:
    expected = reference(name, BASE)
    runner = make_runner(name, EMULATED, threads=2)
    steps = [tokens(0)[i : i + count] for i, count in ((0, 37), (37, 5), (42, 1), (43, 8), (51, 239))]
    assert torch.equal(torch.cat([runner.step([(0, part)]) for part in steps]), expected)


def test_stale_rows_of_a_block_leave_no_trace() -> None:
    """Tiles always hold 8 rows; those that the step does not have may be anything, such as what a NaN left behind."""
    weight, x = quantized("q4", 40, 96, minima=True), spread(8, 96)
    x[5:] = float("nan")
    function = RowFunction(EMULATED, x, 40, lambda ops, x, backend: ops.linear(x, backend.matrix([weight])))
    function()
    assert torch.equal(function(range(5)), product(BASE, [weight], x[:5]))
