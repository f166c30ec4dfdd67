"""Ceilings are medians of samples that were taken beside the measurements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paceline.bench.roofline import reading
from paceline.bench.roofline.ceilings import READS, CeilingMeter, open_meter
from paceline.bench.roofline.multiply import Way, torch_threads, ways
from paceline.bench.roofline.reading import CACHE_IF_UNKNOWN, last_level_cache


def fixed(seconds: list[float]) -> Iterator[float]:
    yield from seconds


class FixedWay(Way):
    """A way whose rate is known."""

    def rate(self) -> float:
        return self.ops


def test_a_sample_has_the_median_of_its_reads_and_the_fastest_way() -> None:
    times = fixed([1.0] * 4 + [2.0] + [4.0] * 4)
    slow, fast = (FixedWay("int8", name, ops, lambda: None) for name, ops in (("slow", 10.0), ("fast", 30.0)))
    meter = CeilingMeter(8, lambda: next(times), {"int8": [slow, fast]})
    meter.sample()
    assert meter.ceilings.bandwidth == 4.0
    assert meter.ceilings.rates == {"int8": 30.0}
    assert [row[0] for row in meter.table().rows] == ["reading memory", "multiplying, int8"]
    assert meter.table().rows[1][-1] == "fast"


def test_the_warm_up_is_forgotten() -> None:
    times = fixed([8.0] * READS + [2.0] * READS + [4.0] * READS)
    meter = CeilingMeter(8, lambda: next(times), {})
    meter.sample()
    meter.clear()
    meter.sample()
    meter.sample()
    assert meter.bandwidths == [4.0, 2.0]
    assert meter.ceilings.bandwidth == 3.0


def test_every_arithmetic_has_a_way_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.bench.roofline.multiply.SIZES", (64,))
    for arithmetic in ("bf16", "f32"):
        found = ways(arithmetic, 1)
        assert any(way.name.startswith("torch") for way in found)
        assert all(way.rate() > 0 for way in found)


def test_a_machine_that_lacks_a_way_has_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise RuntimeError("not in this build")

    monkeypatch.setattr("paceline.bench.roofline.multiply.SIZES", (64,))
    monkeypatch.setattr(torch, "_int_mm", missing)
    assert all(not way.name.startswith("torch") for way in ways("int8", 1))


def test_the_real_meter_reads_and_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.bench.roofline.multiply.SIZES", (64,))
    meter = open_meter(1, ["f32"], size=1 << 20)
    meter.sample()
    ceilings = meter.ceilings
    assert 1e8 < ceilings.bandwidth < 1e13
    assert 1e7 < ceilings.rates["f32"] < 1e14


def test_torch_gets_its_threads_for_the_measurement_only() -> None:
    before = torch.get_num_threads()
    with torch_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_the_largest_cache_is_found_and_an_unknown_one_is_assumed(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "48M", "odd")):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "size").write_text(f"{size}\n")
    assert last_level_cache(tmp_path) == 48 << 20
    assert last_level_cache(tmp_path / "nowhere") == CACHE_IF_UNKNOWN


def test_a_read_takes_time() -> None:
    assert reading.read_loop(1 << 20, 1)() > 0
