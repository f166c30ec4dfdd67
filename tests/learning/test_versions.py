"""Versions of a speculator: numbers that are never used twice, one in use, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.errors import InvalidRequestError
from paceline.learning.versions import CURRENT, VersionCard, Versions


def publish(versions: Versions, root: Path, size: int = 10) -> int:
    written = root / "written"
    written.mkdir()
    (written / "model.safetensors").write_bytes(b"x" * size)
    number = versions.next_number()
    versions.publish(written, VersionCard(number=number, made="now"))
    return number


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / "versions")


def test_a_new_folder_uses_what_the_server_starts_with(versions: Versions) -> None:
    assert versions.current().version == 0 and versions.numbers() == []
    with pytest.raises(InvalidRequestError, match="nothing to go back to"):
        versions.rolled_back()


def test_going_back_is_going_back_step_by_step(versions: Versions, tmp_path: Path) -> None:
    for _ in range(3):
        versions.use(publish(versions, tmp_path))
    seen = [versions.write(versions.rolled_back()).version for _ in range(3)]
    assert seen == [2, 1, 0]
    with pytest.raises(InvalidRequestError):
        versions.rolled_back()
    assert versions.current().seen == 3, "version 3 is not taken for new again"


def test_a_version_that_is_gone_is_passed_over_on_the_way_back(versions: Versions, tmp_path: Path) -> None:
    for _ in range(3):
        versions.use(publish(versions, tmp_path))
    (versions.folder(2) / "version.json").unlink()
    assert versions.rolled_back().version == 1


def test_numbers_are_not_used_twice(versions: Versions, tmp_path: Path) -> None:
    for _ in range(2):
        versions.see(publish(versions, tmp_path))
    for path in versions.folder(2).iterdir():
        path.unlink()
    assert publish(versions, tmp_path) == 3


def test_pruning_takes_the_oldest_and_never_what_is_in_use_or_was_before(versions: Versions, tmp_path: Path) -> None:
    for number in range(1, 7):
        assert publish(versions, tmp_path, size=1000) == number
    versions.use(2)
    versions.use(4)
    assert versions.prune(max_bytes=5000) == [1, 3]
    assert versions.numbers() == [2, 4, 5, 6]
    assert versions.prune(max_bytes=0, keep=[5]) == []
    assert versions.prune(max_bytes=0) == [5]


def test_a_half_written_folder_is_not_a_version(versions: Versions, tmp_path: Path) -> None:
    publish(versions, tmp_path)
    (versions.root / "0009").mkdir()
    (versions.folder(1) / "version.json").write_text("{")
    assert versions.numbers() == [1] and versions.card(1) is None


def test_a_damaged_file_of_the_current_version_is_told_and_not_overwritten(versions: Versions, tmp_path: Path) -> None:
    versions.use(publish(versions, tmp_path))
    (versions.root / CURRENT).write_text('{"version": "two"}')
    with pytest.raises(InvalidRequestError, match=r"current\.json cannot be read.*delete it"):
        versions.use(1)
