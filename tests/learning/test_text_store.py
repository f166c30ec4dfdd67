"""Texts of traffic on disk: bounded, never twice, readable whenever the server was killed."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

import pytest

from paceline.learning.store import TextStore, is_held, read_newest, read_segment, segments_of

LIMIT = 20_000


def fill(store: TextStore, count: int, start: int = 0) -> None:
    for i in range(start, start + count):
        assert store.add([i, 7, 7], [i, 1, 2, 3], steps=3, drafted=5, accepted=1)


def both_sides(folder: Path) -> list[int]:
    return sorted(record.serial for held in (False, True) for record in read_newest(folder, held))


def test_what_is_kept_can_be_read_with_what_drafts_did(tmp_path: Path) -> None:
    store = TextStore(tmp_path, LIMIT)
    store.add([1, 2], [3, 4, 5], steps=2, drafted=6, accepted=1)
    (record,) = read_segment(segments_of(tmp_path)[0])
    assert (record.prompt, record.output, record.steps, record.drafted, record.accepted) == ([1, 2], [3, 4, 5], 2, 6, 1)
    assert record.held == is_held([1, 2])


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    store = TextStore(tmp_path / "texts", LIMIT)
    fill(store, 1)
    assert stat.S_IMODE((tmp_path / "texts").stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in segments_of(tmp_path / "texts")] == [0o600]


def test_the_limit_holds_after_every_text_and_the_oldest_go(tmp_path: Path) -> None:
    store = TextStore(tmp_path, LIMIT)
    for i in range(1000):
        fill(store, 1, i)
        on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert on_disk == store.size <= LIMIT
    serials = both_sides(tmp_path)
    assert serials == list(range(1001 - len(serials), 1001)), "the newest ones, without a gap"
    assert store.count == len(serials) > 100


def test_a_text_that_is_larger_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    store = TextStore(tmp_path, LIMIT)
    fill(store, 3)
    assert not store.add([1], list(range(LIMIT)))
    assert both_sides(tmp_path) == [1, 2, 3]


def test_known_texts_are_dropped_also_after_a_restart_and_may_come_again_when_they_are_gone(tmp_path: Path) -> None:
    store = TextStore(tmp_path, LIMIT)
    fill(store, 5)
    assert not store.add([3, 7, 7], [3, 1, 2, 3]) and store.dropped_duplicates == 1
    store.close()
    again = TextStore(tmp_path, LIMIT)
    assert not again.add([3, 7, 7], [3, 1, 2, 3])
    assert again.count == 5 and again.next_serial == 6
    fill(again, 1000, 5)
    assert again.add([3, 7, 7], [3, 1, 2, 3])


def test_prompt_and_output_are_told_apart(tmp_path: Path) -> None:
    store = TextStore(tmp_path, LIMIT)
    assert store.add([1, 2], [3]) and store.add([1], [2, 3])


def test_a_prompt_is_on_one_side_only_and_about_an_eighth_are_held_out(tmp_path: Path) -> None:
    store = TextStore(tmp_path, 10_000_000)
    for i in range(2000):
        store.add([i, 1], [1])
        store.add([i, 1], [2])
    held = {tuple(record.prompt) for record in read_newest(tmp_path, held=True)}
    trained = {tuple(record.prompt) for record in read_newest(tmp_path, held=False)}
    assert not held & trained and len(held | trained) == 2000
    assert 180 < len(held) < 320


def test_reading_begins_with_the_newest_and_ends_at_a_serial(tmp_path: Path) -> None:
    store = TextStore(tmp_path, LIMIT)
    fill(store, 200)
    for after in (0, 37, 150, 200):
        found = [record.serial for record in read_newest(tmp_path, False, after)]
        assert found == sorted(found, reverse=True)
        assert all(serial > after for serial in found)
        assert len(found) == sum(not is_held([i, 7, 7]) for i in range(after, 200))


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_line_that_was_cut_off_is_passed_over_with_a_word_in_the_log(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = TextStore(tmp_path, LIMIT)
    fill(store, 4)
    (segment,) = segments_of(tmp_path)
    data = segment.read_bytes()
    start = data[:-1].rfind(b"\n") + 1
    segment.write_bytes(data[: start + kept] if kept > 0 else data[:kept][:-1])
    with caplog.at_level(logging.WARNING):
        again = TextStore(tmp_path, LIMIT)
        fill(again, 2, 10)
    assert len([one for one in caplog.records if str(segment) in one.getMessage()]) == 1
    assert len(both_sides(tmp_path)) == 5
    assert len(segments_of(tmp_path)) == 2, "nothing is written behind a line that was cut off"


def test_a_store_of_noise_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "000000000042.jsonl").write_bytes(os.urandom(500))
    (tmp_path / "notes.txt").write_text("mine")
    store = TextStore(tmp_path, LIMIT)
    fill(store, 1000)
    assert store.next_serial > 1000 and (tmp_path / "notes.txt").read_text() == "mine"


def test_a_full_disk_leaves_what_was_there_and_writing_may_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TextStore(tmp_path, LIMIT)
    fill(store, 3)
    write = os.write

    def half(file: int, data: bytes) -> int:
        return write(file, data[: len(data) // 2])

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for broken in (half, full):
        monkeypatch.setattr(os, "write", broken)
        with pytest.raises(OSError, match=r"bytes were written|No space left"):
            store.add([9], [9])
        monkeypatch.setattr(os, "write", write)
        assert len(both_sides(tmp_path)) == 3
    fill(store, 1, 3)
    assert len(both_sides(tmp_path)) == 4
