"""Prompts of exact length, each different; noise readings."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from paceline.bench.noise import NoiseGuard, NoiseReading, busy_seconds, read_noise
from paceline.bench.prompts import DataError, PromptSource
from paceline.bench.text import passage


def words(text: str) -> list[int]:
    return [hash(word) % 50_000 for word in text.split()]


@pytest.mark.parametrize("length", [1, 16, 350, 2048])
def test_prompts_have_exactly_the_asked_length(length: int) -> None:
    assert len(PromptSource(words).take(length)) == length


def test_prompts_differ_from_their_first_tokens_on() -> None:
    source = PromptSource(words)
    starts = [tuple(source.take(50)[:16]) for _ in range(200)]
    assert len(set(starts)) == 200


def test_the_same_seed_gives_the_same_prompts() -> None:
    assert PromptSource(words, seed=3).take(40) == PromptSource(words, seed=3).take(40)
    assert PromptSource(words, seed=4).take(40) != PromptSource(words, seed=3).take(40)


def test_generated_text_is_sentences() -> None:
    text = passage(1, 12)
    assert text == passage(1, 12) != passage(2, 12)
    assert text.count(".") >= 12 and text.endswith(("?", "."))


def test_prompts_come_from_the_data_folder(tmp_path: Path) -> None:
    long = "the quick brown fox jumps over the lazy dog " * 10
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps({"turns": ["too short", long + "alpha"]}) + "\n")
    (tmp_path / "b.txt").write_text("never a machine " * 40)
    (tmp_path / "c.csv").write_text("not,read," * 100)
    source = PromptSource(lambda text: [ord(c) for c in text], tmp_path)
    assert source.description.startswith("2 texts")
    texts = {"".join(map(chr, source.take(30)))[:30] for _ in range(2)}
    assert all("fox" in text or "brown" in text or "dog" in text or "machine" in text for text in texts)


def test_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text"):
        PromptSource(words, tmp_path)


def test_too_few_texts_for_different_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three " * 20)
    source = PromptSource(words, tmp_path)
    with pytest.raises(DataError, match="too few"):
        for _ in range(20):
            source.take(16)


def test_reserving_more_than_the_texts_give_says_how_many_there_were(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three " * 20)
    with pytest.raises(DataError, match=r"gave \d+ of the 20 prompts of this run.*fewer rounds"):
        PromptSource(words, tmp_path).reserve([16] * 20)


def test_reserved_prompts_are_handed_out_by_length() -> None:
    source, other = PromptSource(words), PromptSource(words)
    source.reserve([30, 40, 30])
    expected = [other.take(length) for length in (30, 40, 30)]
    assert [source.take(30), source.take(30), source.take(40)] == [expected[0], expected[2], expected[1]]
    assert source.take(30) not in expected


def test_busy_time_counts_stolen_time_but_not_waiting() -> None:
    assert busy_seconds("cpu  100 0 200 9999 50 0 0 300 0 0\ncpu0 ...") == pytest.approx(6.0)


def test_reading_times_arithmetic_and_memory() -> None:
    reading = read_noise(0.01)
    assert 0 < reading.seconds < 1
    assert 0 < reading.memory_seconds < 1
    assert reading.foreign_cores >= 0


@pytest.mark.parametrize("noise", ["seconds", "memory_seconds", "foreign_cores"])
def test_verdict_names_the_noise(noise: str) -> None:
    calm = {"seconds": 0.01, "memory_seconds": 0.005, "foreign_cores": 0.02}
    noisy = {"seconds": [0.01, 0.012], "memory_seconds": [0.005, 0.007], "foreign_cores": [0.7, 0.7]}[noise]
    assert NoiseGuard([NoiseReading(**calm)] * 8).verdict()[0]
    quiet, text = NoiseGuard([NoiseReading(**{**calm, noise: noisy[i % 2]}) for i in range(8)]).verdict()
    assert not quiet and "NOISY" in text


def test_no_reading_is_no_noise() -> None:
    assert NoiseGuard().verdict()[0]
