"""Files that are whole or not there, and refusals before anything is measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paceline.bench.output import files
from paceline.bench.output.files import OutputError, check_writable, write_files, write_whole


def test_a_path_that_can_be_written_is_accepted_and_left_alone(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("kept")
    check_writable([old, tmp_path / "new.csv", None])
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert old.read_text() == "kept"


def test_a_folder_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*nowhere"):
        check_writable([tmp_path / "nowhere" / "a.json"])


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"):
        check_writable([tmp_path])


def test_a_folder_that_takes_no_files_is_refused() -> None:
    with pytest.raises(OutputError, match="cannot write /proc"):
        check_writable([Path("/proc/report.html")])  # nobody may, not even root


def test_one_file_for_two_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="named for two outputs"):
        check_writable([tmp_path / "a", tmp_path / "a"])


def test_devices_are_written_through_not_replaced() -> None:
    check_writable([Path("/dev/null"), Path("/dev/null")])
    write_whole(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.shutil, "copymode", full)
    with pytest.raises(OutputError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_modes_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_whole(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_new_files_have_the_modes_that_the_user_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_one_file_that_fails_does_not_keep_the_others_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good"
    with pytest.raises(OutputError, match="gone/a"):
        write_files((tmp_path / "gone" / "a", lambda: "x"), (None, lambda: "never"), (good, lambda: "text"))
    assert good.read_text() == "text"
    assert capsys.readouterr().err == f"wrote {good}\n"
