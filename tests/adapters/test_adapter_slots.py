"""What an adapter is on disk and in slots."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paceline.adapters.adapter import Adapter, adapters_below, check_name, fingerprint_of
from paceline.adapters.slots import AdapterSlots
from paceline.errors import AdapterError


class Backend:
    """Remembers what each slot holds."""

    def __init__(self) -> None:
        self.held: dict[int, dict] = {}

    def load_adapter(self, index, parts) -> None:
        self.held[index] = parts

    def unload_adapter(self, index) -> None:
        self.held.pop(index, None)


class Weights:
    def __init__(self, name: str) -> None:
        self.parts = {(0, "q"): name}
        self.nbytes = 1
        self.speculator = None


def adapter(name: str, last_used: int = 0) -> Adapter:
    return Adapter(name, 1, Path("/"), "", weights=Weights(name), last_used=last_used)


def write(folder: Path, config: str = "{}") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(config)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


class TestFiles:
    def test_a_fingerprint_changes_with_size_time_and_names(self, tmp_path) -> None:
        folder = write(tmp_path / "a")
        seen = {fingerprint_of(folder)}
        file = folder / "adapter_model.safetensors"
        file.write_bytes(b"longer weights")
        seen.add(fingerprint_of(folder))
        os.utime(file, ns=(1, 1))
        seen.add(fingerprint_of(folder))
        file.rename(folder / "adapter_model.bin")
        seen.add(fingerprint_of(folder))
        assert len(seen) == 4

    def test_a_fingerprint_is_of_the_adapters_files_alone(self, tmp_path) -> None:
        folder = write(tmp_path / "a")
        before = fingerprint_of(folder)
        (folder / "README.md").write_text("notes")
        assert fingerprint_of(folder) == before

    def test_a_file_in_place_of_a_folder_is_no_adapter(self, tmp_path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(AdapterError, match=r"no adapter at .*file: Not a directory"):
            fingerprint_of(tmp_path / "file")

    def test_subfolders_with_a_config_are_adapters(self, tmp_path) -> None:
        write(tmp_path / "b")
        write(tmp_path / "a")
        (tmp_path / "notes").mkdir()
        assert list(adapters_below(tmp_path)) == ["a", "b"]

    @pytest.mark.parametrize("name", ["a", "org/name", "two words", "a@1", "x" * 128])
    def test_names_may_look_like_names(self, name) -> None:
        check_name(name)


class TestSlots:
    def test_free_slots_come_first_then_the_least_recently_used(self) -> None:
        slots, backend = AdapterSlots(Backend(), 2), Backend()
        slots._backend = backend
        a, b, c, d = (adapter(name, used) for used, name in enumerate("abcd", 1))
        assert slots.assign(a) is True and slots.assign(b) is True
        slots.fill(a)
        slots.fill(b)
        a.last_used = 9
        assert slots.assign(c) is b and (b.slot, b.resident) == (None, False)
        slots.fill(c)
        assert backend.held == {0: {(0, "q"): "a"}, 1: {(0, "q"): "c"}}
        assert slots.assign(d, evict=False) is False
        slots.check_integrity()

    def test_a_slot_in_use_reserved_or_being_filled_is_kept(self) -> None:
        slots = AdapterSlots(Backend(), 3)
        running, reserved, filling, late = (adapter(name) for name in ("running", "reserved", "filling", "late"))
        for one in (running, reserved, filling):
            slots.assign(one)
        slots.fill(running)
        slots.fill(reserved)
        running.num_sequences = running.num_running = 1
        assert slots.assign(late, reserved=[1]) is False
        assert slots.assign(late) is reserved
        with pytest.raises(AssertionError, match="running sequences use it"):
            slots.clear(running)
