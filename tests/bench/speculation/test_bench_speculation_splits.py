"""SPEED-Bench's splits: what is asked, from where, how it is chosen and cut, and what is said of what is missing."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from row_files import write

from paceline.bench.prompts import DataError
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.speed_bench import candidates as candidates_module
from paceline.bench.speculation.speed_bench.candidates import CATEGORIES, SOURCES, read_candidates, restricted
from paceline.bench.speculation.speed_bench.embeddings import NgramVectors, Progress, Vectors, unit_length
from paceline.bench.speculation.speed_bench.qualitative import build_qualitative
from paceline.bench.speculation.speed_bench.splits import SplitWishes, make_splits
from paceline.bench.speculation.speed_bench.throughput import Cutter, build_throughput
from paceline.bench.speculation.workloads import Conversation

SHARED = Path(os.environ.get("PACELINE_BENCH_DATA") or Path(__file__).parents[4] / "shared" / "data")


class Numbers:
    """Vectors from the number in a text: neighbours are alike. Counts what it embeds."""

    name = "numbers"
    reason = "the numbers in them"

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, texts: Sequence[str], show: Progress) -> Vectors:
        self.embedded += len(texts)
        numbers = [next((word for word in text.split() if word.isdigit()), "0") for text in texts]
        angles = np.array(numbers, dtype=float) / 40
        return unit_length(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


def small_folder(folder: Path, count: int = 30) -> Path:
    write(folder, "gsm8k/test.jsonl", [{"question": f"how much is {i} and one"} for i in range(count)])
    turns = [{"question_id": i, "category": "stem", "turns": [f"why {i}", f"and {i} again"]} for i in range(5)]
    write(folder, "mt_bench/question.jsonl", turns)
    return folder


# The qualitative split


def test_every_category_has_sources_and_every_source_a_category() -> None:
    assert {source.category for source in SOURCES} == set(CATEGORIES)
    assert len({(source.category, source.name) for source in SOURCES}) == len(SOURCES)


def test_categories_come_from_their_sources_and_topics(tmp_path: Path) -> None:
    found = read_candidates(small_folder(tmp_path), 0)
    assert {name: len(those) for name, those in found.by_category.items() if those} == {"math": 30, "stem": 5}
    assert list(found.by_category) == list(CATEGORIES)
    assert found.by_category["stem"][0].key.startswith("stem/mt_bench:")
    assert len(found.by_category["stem"][0].turns) == 2
    assert "spec_bench/question.jsonl" in found.missing and "gsm8k/test.jsonl" not in found.missing


def test_a_prompt_of_two_sources_is_a_candidate_once(tmp_path: Path) -> None:
    rows = [{"question": f"same {i}", "answer": ""} for i in range(4)]
    write(tmp_path, "gsm8k/test.jsonl", rows)
    write(tmp_path, "math/math500.jsonl", rows[:3])
    keys = [one.key for one in read_candidates(tmp_path, 0).by_category["math"]]
    assert sorted(key.partition(":")[0] for key in keys) == ["math/gsm8k"] * 4


def test_sources_take_turns_so_that_small_ones_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates_module, "MOST_CANDIDATES", 10)
    write(tmp_path, "gsm8k/test.jsonl", [{"question": f"large {i}"} for i in range(500)])
    write(tmp_path, "math/math500.jsonl", [{"question": f"small {i}"} for i in range(4)])
    names = Counter(one.key.partition(":")[0] for one in read_candidates(tmp_path, 0).by_category["math"])
    assert names == {"math/gsm8k": 6, "math/math500": 4}


def test_the_seed_draws_the_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates_module, "MOST_CANDIDATES", 10)
    small_folder(tmp_path)
    drawn = [[one.key for one in read_candidates(tmp_path, seed).by_category["math"]] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_very_long_prompts_are_no_candidates(tmp_path: Path) -> None:
    write(tmp_path, "gsm8k/test.jsonl", [{"question": "a " * 10_001}, {"question": "short"}])
    assert [one.turns for one in read_candidates(tmp_path, 0).by_category["math"]] == [("short",)]


def test_a_role_is_played_over_the_first_lines_of_the_other_person(tmp_path: Path) -> None:
    talk = "User 1: Hi!\nUser 2: Hello!\nUser 1: What do you do?\nUser 2: I dig.\nUser 1: Why?\nUser 1: Oh.\n"
    row = {"user_1_personas": "I bake.", "user_2_personas": "I dig holes.", "conversation": talk}
    write(tmp_path, "synthetic_persona_chat/valid.jsonl.gz", [row])
    (one,) = read_candidates(tmp_path, 0).by_category["roleplay"]
    assert "I dig holes." in one.turns[0] and one.turns[0].endswith("Hi!")
    assert one.turns[1:] == ("What do you do?", "Why?")


def test_a_split_has_so_many_of_each_category_and_fewer_are_a_part_of_more(tmp_path: Path) -> None:
    small_folder(tmp_path, 200)

    def split(prompts: int) -> list[str]:
        made = build_qualitative(tmp_path, Numbers, prompts=prompts, folder=tmp_path / "cache", say=lambda _: None)
        return [one.key for one in made.first(prompts)]

    assert Counter(key.partition(":")[0] for key in split(80)) == {"math/gsm8k": 80, "stem/mt_bench": 5}
    assert set(split(3)) <= set(split(20)) <= set(split(80))


def test_the_choice_is_made_once_and_again_when_the_data_change(tmp_path: Path) -> None:
    small_folder(tmp_path, 100)
    embedder = Numbers()

    def build() -> list[str]:
        made = build_qualitative(tmp_path, lambda: embedder, folder=tmp_path / "cache", say=lambda _: None)
        return [one.key for one in made.first(80)]

    first = build()
    assert embedder.embedded == 105 and build() == first and embedder.embedded == 105
    write(tmp_path, "gsm8k/test.jsonl", [{"question": f"how much is {i} and two"} for i in range(100)])
    build()
    assert embedder.embedded == 210


def test_a_damaged_cache_is_made_anew_category_by_category(tmp_path: Path) -> None:
    small_folder(tmp_path, 100)
    embedder, folder = Numbers(), tmp_path / "cache"
    build_qualitative(tmp_path, lambda: embedder, folder=folder, say=lambda _: None)
    (file,) = folder.iterdir()
    keys = json.loads(file.read_text())
    file.write_text(json.dumps({**keys, "stem": ["stem/mt_bench:77"]}))
    build_qualitative(tmp_path, lambda: embedder, folder=folder, say=lambda _: None)
    assert embedder.embedded == 105 + 5 and json.loads(file.read_text()) == keys
    file.write_text("{")
    build_qualitative(tmp_path, lambda: embedder, folder=folder, say=lambda _: None)
    assert embedder.embedded == 110 + 105


def test_what_is_missing_few_or_restricted_is_said(tmp_path: Path) -> None:
    write(tmp_path, "mmath/fr.jsonl", [{"question": "Combien font 3 et 4 ?"}])
    made = build_qualitative(tmp_path, Numbers, prompts=80, folder=tmp_path / "cache", say=lambda _: None)
    text = " ".join(made.notes)
    assert "gsm8k/test.jsonl" in text and "multilingual 1" in text
    assert "measurement only, not to be passed on: mmath_fr (no licence file)" in text
    assert restricted(["math/gsm8k:1", "qa/mmath_fr:1"]) == []


def test_a_folder_without_any_of_the_sets_or_with_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the files"):
        read_candidates(tmp_path, 0)
    write(tmp_path, "gsm8k/test.jsonl", [{"prompt": "x"}])
    with pytest.raises(DataError, match=r"gsm8k.*expected layout: KeyError"):
        read_candidates(tmp_path, 0)


# The throughput split


def words(text: str) -> int:
    """A token a word, and ten around them."""
    return len(text.split()) + 10


def bamboo(folder: Path, size: int = 400, count: int = 6) -> Path:
    def text(i: int) -> str:
        return " ".join(f"word{i}x{j}" for j in range(size))

    many = [{"content": text(i), "answer": "x", "question": f"what of {i}?"} for i in range(count)]
    for name in ("paperqa_16k", "meetingqa_4k", "showspred_16k", "meetingpred_4k"):
        write(folder, f"bamboo/{name}.jsonl.gz", many)
    write(folder, "bamboo/private_eval_16k.jsonl.gz", [{"prompt": text(i)} for i in range(count)])
    for name in ("showssort_16k", "reportsumsort_4k"):
        write(folder, f"bamboo/{name}.jsonl.gz", [{"content": [text(i), "the end"]} for i in range(count)])
    return folder


@pytest.mark.parametrize("length", [300, 1024, 2000])
def test_prompts_have_their_length_and_entropies_take_turns(tmp_path: Path, length: int) -> None:
    made = build_throughput(bamboo(tmp_path), length, Cutter(words), prompts=4)
    assert [one.category for one in made[:6]] == ["low", "mixed", "high"] * 2
    assert Counter(one.category for one in made) == {"low": 4, "mixed": 4, "high": 4}
    for one in made:
        assert 0.98 * length <= words(one.turns[0]) <= length


def test_the_task_stands_behind_the_text_however_long_it_is(tmp_path: Path) -> None:
    made = build_throughput(bamboo(tmp_path), 1024, Cutter(words), prompts=2)
    assert made[1].turns[0].endswith("quote what supports the answer.") and "what of " in made[1].turns[0]
    assert "Part 1:" in made[3].turns[0] and made[3].turns[0].endswith("and nothing else.")


def test_prompts_of_a_task_begin_with_different_documents(tmp_path: Path) -> None:
    made = build_throughput(bamboo(tmp_path), 300, Cutter(words), prompts=12)
    high = [one.turns[0] for one in made if one.category == "high"]
    assert len({text[:60] for text in high[::2]}) == 6


def test_documents_that_do_not_fill_the_length_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"private_eval_16k\.jsonl\.gz is missing"):
        build_throughput(tmp_path, 1024, Cutter(words), prompts=1)
    with pytest.raises(DataError, match="do not make a prompt of 9000 tokens"):
        build_throughput(bamboo(tmp_path, size=100), 9000, Cutter(words), prompts=1)


class Planner:
    """Has a context of 2000 words."""

    def tokens(self, text: str) -> int:
        return words(text)

    def plan(self, conversations: Sequence[Conversation], room: int) -> tuple[list[Planned], int]:
        planned = [Planned(one, [0] * words(one.turns[0])) for one in conversations]
        fitting = [one for one in planned if len(one.prompt_ids) + room <= 2000]
        return fitting, len(planned) - len(fitting)


def test_lengths_above_the_context_are_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    small_folder(bamboo(tmp_path))
    write(tmp_path, "mbpp/mbpp.jsonl", [{"text": "long 7 " * 1100, "test_list": [""]}])
    wishes = SplitWishes(("qualitative", "throughput"), (1024, 2048), 2, 0, 4096)
    splits = make_splits(tmp_path, wishes, Planner(), 2000, Numbers, lambda _: None)
    assert {name: len(plan) for name, plan in splits.plans.items()} == {"qualitative": 8, "throughput 1k": 6}
    notes = " ".join(splits.notes)
    assert "left out throughput 2k: with 128 tokens for the answer it exceeds the context of 2000" in notes
    assert "qualitative: left out 1 prompts" in notes
    assert splits.how.endswith("by vectors of the numbers in them")


def test_nothing_left_to_ask_is_an_error(tmp_path: Path) -> None:
    wishes = SplitWishes(("throughput",), (4096,), 2, 0, 4096)
    with pytest.raises(DataError, match="left out throughput 4k"):
        make_splits(bamboo(tmp_path), wishes, Planner(), 2000, Numbers, lambda _: None)


# The shared data


def test_the_shared_data_fill_every_category(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is missing")
    found = read_candidates(SHARED, 0)
    assert not found.missing
    assert all(len(those) >= 80 for those in found.by_category.values())
    keys = [one.key for those in found.by_category.values() for one in those]
    assert len(keys) == len(set(keys))
    multi_turn = Counter(name for name, those in found.by_category.items() for one in those if len(one.turns) > 1)
    assert min(multi_turn[name] for name in ("humanities", "qa", "reasoning", "roleplay")) >= 40


def test_the_shared_data_make_prompts_of_every_length() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is missing")
    for length in (1024, 32768):
        made = build_throughput(SHARED, length, Cutter(words), prompts=2)
        assert len(made) == 6
        assert all(0.98 * length <= words(one.turns[0]) <= length for one in made)


def test_ngram_vectors_say_why_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from paceline.bench.speculation.speed_bench import sentence_model
    from paceline.errors import ModelLoadError

    def fail() -> None:
        raise ModelLoadError("all-MiniLM-L6-v2 could not be fetched:\n  Hub: no route\n  PyPI: no route")

    monkeypatch.setattr(sentence_model, "find_files", fail)
    embedder = sentence_model.open_embedder()
    assert isinstance(embedder, NgramVectors)
    assert "there is no sentence model: all-MiniLM-L6-v2 could not be fetched: Hub: no route" in embedder.reason
