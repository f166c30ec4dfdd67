"""Settings: what the user asked for, what was chosen for the rest, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.backends.base import CacheSpec
from paceline.engine import machine
from paceline.engine.config import EngineConfig, Machine, ResolvedConfig, resolve
from paceline.errors import InvalidRequestError
from paceline.kv.cache import window_blocks
from paceline.kv.sizing import cache_bytes

MIB = 2**20
LARGE = Machine(free_bytes=64 * 2**30, cores=8)
SPEC = CacheSpec(num_kv_heads=3, head_dim=64, layer_group=(0,) * 30, group_windows=(0,))
LOCAL = CacheSpec(num_kv_heads=1, head_dim=64, layer_group=(0, 1, 1, 1, 1, 1), group_windows=(0, 512))


def run(spec: CacheSpec = SPEC, context: int = 8192, limits: Machine = LARGE, **wishes: object) -> ResolvedConfig:
    return resolve(EngineConfig(**wishes), spec, context, limits)[0]


def reasons(spec: CacheSpec = SPEC, context: int = 8192, limits: Machine = LARGE, **wishes: object) -> dict[str, str]:
    choices = resolve(EngineConfig(**wishes), spec, context, limits)[1]
    return {choice.name: f"{choice.value}: {choice.reason}" for choice in choices}


def test_a_small_model_on_a_large_machine_gets_its_own_context_and_a_modest_cache() -> None:
    config = run()
    assert config.context_length == 8192
    assert 8192 <= config.num_blocks[0] * 16 <= 65536
    assert cache_bytes(SPEC, config.num_blocks) < 1024 * MIB
    assert config.threads == 8


def test_the_cache_takes_at_most_a_quarter_of_free_memory() -> None:
    limits = Machine(free_bytes=400 * MIB, cores=2)
    config = run(limits=limits)
    assert 90 * MIB < cache_bytes(SPEC, config.num_blocks) <= 100 * MIB
    assert "25% of 400 MiB free memory" in reasons(limits=limits)["kv_cache"]


def test_the_context_shrinks_to_what_the_cache_holds_and_says_so() -> None:
    limits = Machine(free_bytes=400 * MIB, cores=2)
    config = run(context=131072, limits=limits)
    assert config.context_length == config.num_blocks[0] * 16 < 131072
    assert reasons(context=131072, limits=limits)["context_length"].endswith("what the KV cache holds")


def test_a_context_above_the_models_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="context_length 9000 is above what the model supports: 8192"):
        run(context_length=9000)


def test_wishes_are_kept_and_named_as_such() -> None:
    wishes = {"context_length": 1000, "kv_blocks": 100, "max_rows": 64, "max_running": 4, "max_queue": 9, "threads": 3}
    config = run(**wishes)
    assert (config.context_length, config.num_blocks) == (1000, (100,))
    assert (config.max_rows, config.max_running, config.max_queue, config.threads) == (64, 4, 9, 3)
    assert all(reason.endswith("as configured") for reason in reasons(**wishes).values())


def test_every_automatic_choice_has_a_reason() -> None:
    assert set(reasons()) == {
        "threads",
        "max_rows",
        "max_running",
        "max_queue",
        "context_length",
        "kv_cache",
        "prefix_cache",
    }
    assert all(len(reason.split(": ")[1]) > 10 for reason in reasons().values())


def test_a_cache_size_in_bytes_is_used_fully() -> None:
    config = run(kv_cache_bytes=200 * MIB)
    assert 199 * MIB < cache_bytes(SPEC, config.num_blocks) <= 200 * MIB


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"kv_cache_bytes": 1000}, "less than one block of 16 tokens"),
        ({"max_rows": 0}, "max_rows must be at least 1, got 0"),
        ({"threads": -1}, "threads must be at least 1, got -1"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(wish: dict, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        run(**wish)


def test_no_more_sequences_run_than_rows() -> None:
    assert run(max_rows=4).max_running == 4
    assert run(max_rows=4, max_running=9).max_running == 4


def test_window_groups_get_what_their_windows_need() -> None:
    config = run(LOCAL, context=131072)
    everything, windows = config.num_blocks
    assert everything * 16 >= 131072
    assert 32 * window_blocks(512, 16) <= windows < everything
    assert config.context_length == 131072


@pytest.mark.parametrize("free", [1, 10 * MIB, 100 * MIB])
def test_a_tiny_machine_still_gets_a_working_engine(free: int) -> None:
    for spec in (SPEC, LOCAL):
        config = run(spec, limits=Machine(free_bytes=free, cores=1))
        assert min(config.num_blocks) >= 1 and config.context_length >= 16


def test_memory_of_a_control_group_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 150000\nactive_file 50000\n")
    assert machine.cgroup_room(tmp_path) == 450000
    assert machine.free_memory(tmp_path) == 450000


def test_memory_of_an_old_control_group_counts(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1000000\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("900000\n")
    assert machine.cgroup_room(tmp_path) == 100000


def test_no_limit_means_the_systems_memory(tmp_path: Path) -> None:
    assert machine.cgroup_room(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700000\n")
    assert machine.cgroup_room(tmp_path) is None
    assert machine.free_memory(tmp_path) > 2**20


@pytest.mark.parametrize(("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("50000 100000", 0.5)])
def test_a_quota_of_processor_time_counts(tmp_path: Path, text: str, quota: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert machine.cpu_quota(tmp_path) == quota
    assert machine.usable_cores(tmp_path) >= 1
    if quota is not None:
        assert machine.usable_cores(tmp_path) <= round(quota + 0.5)


def test_prefixes_of_a_small_model_are_remembered_in_a_bounded_part_of_the_cache() -> None:
    spec = CacheSpec(num_kv_heads=3, head_dim=64, layer_group=(0,) * 30, group_windows=(0,))
    machine = Machine(free_bytes=16 * 2**30, cores=2)
    small = resolve(EngineConfig(), spec, 8192, machine, weights_bytes=96 * 2**20)[0]
    large = resolve(EngineConfig(), spec, 8192, machine, weights_bytes=4 * 2**30)[0]
    assert small.warm_blocks[0] * spec.block_bytes(0) <= 192 * 2**20 < small.num_blocks[0] * spec.block_bytes(0)
    assert large.warm_blocks == large.num_blocks
    wished = resolve(EngineConfig(kv_cache_bytes=2**30), spec, 8192, machine, weights_bytes=96 * 2**20)[0]
    assert wished.warm_blocks == wished.num_blocks
