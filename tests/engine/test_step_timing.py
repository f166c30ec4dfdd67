"""Timing steps at start: what the measured costs say of a machine whose costs are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from paceline.backends.base import Batch, CacheSpec
from paceline.engine import step_timing
from paceline.engine.step_timing import FEW_FROM, ROWS, time_steps

KEY, KEY_ROW, LOGITS = 2e-6, 1e-6, 5e-5


class KnownMachine:
    """Runs no model; the clock goes on by what a step costs."""

    def __init__(self, num_blocks: int, context_length: int, windows: tuple[int, ...]) -> None:
        self.now, self.num_blocks, self.context_length, self.windows = 0.0, num_blocks, context_length, windows
        self.stall = 0.0  # of every other run

    def perf_counter(self) -> float:
        return self.now

    def run(self, batch: Batch) -> SimpleNamespace:
        rows = np.diff(batch.row_starts)
        assert len(batch.token_ids) == len(batch.positions) == rows.sum()
        assert batch.slots.max() < 16 * self.num_blocks and batch.positions.max() < self.context_length
        assert len({tuple(slot) for slot in batch.slots.T}) == len(batch.positions)  # nobody shares a slot
        keys = [np.mean([min(context, window or context) for window in self.windows]) for context in batch.context_lens]
        self.now += 2e-3 + 4e-4 * rows.sum() + LOGITS * len(batch.logit_rows)
        self.now += sum((KEY + KEY_ROW * count) * seen for count, seen in zip(rows, keys, strict=True))
        self.now += self.stall
        self.stall = 20e-3 - self.stall if self.stall or self.noisy else 0.0
        return SimpleNamespace()

    noisy = False


def spec(windows: tuple[int, ...]) -> CacheSpec:
    groups = tuple(dict.fromkeys(windows))
    return CacheSpec(1, 16, tuple(groups.index(window) for window in windows), groups)


def costs(
    monkeypatch: pytest.MonkeyPatch, blocks: int = 2048, context: int = 2048, rows: int = 512,
    windows: tuple[int, ...] = (0, 0), noisy: bool = False,
):  # fmt: skip
    machine = KnownMachine(blocks, context, windows)
    machine.noisy = noisy
    monkeypatch.setattr(step_timing.time, "perf_counter", machine.perf_counter)
    cache = spec(windows)
    return time_steps(machine, cache, (blocks,) * cache.num_groups, rows, context)


@pytest.mark.parametrize("noisy", [False, True], ids=["quiet", "every other run is held up"])
def test_a_machine_of_known_costs_is_known_afterwards(monkeypatch: pytest.MonkeyPatch, noisy: bool) -> None:
    found = costs(monkeypatch, noisy=noisy)
    assert found.seconds(9) - found.seconds(1) == pytest.approx(8 * (4e-4 + LOGITS + 16 * KEY_ROW))
    assert found.row_attention(1016) == pytest.approx(1000 * KEY_ROW)
    assert found.attention(1016) == pytest.approx(1000 * (KEY + KEY_ROW))
    assert found.logits == pytest.approx(LOGITS)


def test_layers_with_windows_see_fewer_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    found = costs(monkeypatch, windows=(0, 64, 64))
    assert found.row_attention(1016) == pytest.approx(((1016 + 2 * 64) / 3 - 16) * KEY_ROW)


@pytest.mark.parametrize("blocks, context, rows", [(1, 2048, 512), (3, 2048, 512), (2048, 40, 512), (2048, 2048, 1)])
def test_a_small_cache_a_short_context_or_a_single_row_is_enough(
    monkeypatch: pytest.MonkeyPatch, blocks: int, context: int, rows: int
) -> None:
    found = costs(monkeypatch, blocks, context, rows)
    assert found.seconds(1) > 0 and found.row_attention(10_000) >= 0


def test_counts_are_measured_up_to_the_rows_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [rows for rows, _ in costs(monkeypatch).points] == list(ROWS)
    assert [rows for rows, _ in costs(monkeypatch, rows=6).points] == [1, 2, 3, 4, 5, 6]
    assert FEW_FROM in ROWS  # where rows without logits are timed
