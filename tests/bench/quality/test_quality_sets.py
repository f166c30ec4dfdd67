"""From a data folder's files to prompts with examples, and the tasks that need none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from paceline.bench.prompts import DataError
from paceline.bench.quality.sets import load_tasks


def write(path: Path, rows: list[object]) -> None:
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    sums = [{"question": f"What is {i} and {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(40)]
    write(tmp_path / "gsm8k" / "train.jsonl.gz", sums[:20])
    write(tmp_path / "gsm8k" / "test.jsonl", sums[20:])
    choices = [
        {"question": f"Which is {i}?", "choices": [f"{i + j}" for j in range(4)], "answer": 0, "type": "sums"}
        for i in range(20)
    ]
    write(tmp_path / "mmlu_stem" / "test.jsonl.gz", choices)
    middle = "".join(f"{word} NN B O\n" for word in ["met", "nobody", "at", "all", "in"])
    tagged = "".join(f"Alice{i} NNP B B-PER\nSmith NNP I I-PER\n{middle}Oslo NNP B B-LOC\n\n" for i in range(10))
    (tmp_path / "conllpp").mkdir()
    (tmp_path / "conllpp" / "conllpp_train.txt.gz").write_bytes(gzip.compress(tagged.encode()))
    empty = "It NN B O\nrained NN B O\nand NN B O\nrained NN B O\nall NN B O\nday NN B O\nlong NN B O\n. . O O\n\n"
    (tmp_path / "conllpp" / "conllpp_dev.txt").write_text(f"-DOCSTART- -X- -X- O\n\nShort NN B O\n\n{tagged}{empty}")
    return tmp_path


def test_gsm8k_shows_worked_examples_and_stops_before_the_next_question(data):
    (task,) = load_tasks(data, ["gsm8k"], 5, seed=0)
    prompt = task.questions[0].prompt
    assert len(task.questions) == 5 and task.how == "write" and task.stop == ("Question:",)
    assert prompt.count("Question: ") == 6 and prompt.count("#### ") == 5 and prompt.endswith("?\nAnswer:")
    assert task.judge(" It is 40.\n#### 40\n\n", "#### 40").perfect


def test_mmlu_does_not_ask_its_examples_and_asks_both_ways_the_same(data):
    weigh, choose = load_tasks(data, ["mmlu_stem", "mmlu_stem_choice"], 100, seed=0)
    assert [q.prompt for q in weigh.questions] == [q.prompt for q in choose.questions]
    assert len(weigh.questions) == 15  # 20 rows, of which 5 are examples
    shown = weigh.questions[0].prompt.split("\n\n")[1:6]
    assert all(example.endswith("\nAnswer: A") for example in shown)
    asked = [question.prompt.split("\n\n")[-1] for question in weigh.questions]
    assert not {example.removesuffix(" A") for example in shown} & set(asked)
    assert (
        asked[0].endswith("\nAnswer:") and weigh.questions[0].gold == " A" and weigh.options == (" A", " B", " C", " D")
    )


def test_ner_asks_for_json_and_takes_sentences_without_entities_too(data):
    (task,) = load_tasks(data, ["ner"], 100, seed=0)
    golds = [question.gold for question in task.questions]
    assert len(golds) == 11 and golds.count("[]") == 1 and task.metric == "F1"
    assert '{"text": "Alice3 Smith", "type": "person"}, {"text": "Oslo", "type": "location"}' in "".join(golds)
    assert task.questions[0].prompt.count("Entities:") == 6
    assert "Short\n" not in "".join(question.prompt for question in task.questions)


def test_a_seed_fixes_the_sample_and_a_larger_one_begins_with_it(data):
    def keys(count: int, seed: int) -> list[str]:
        return [question.key for question in load_tasks(data, ["gsm8k"], count, seed)[0].questions]

    assert keys(5, 0) == keys(5, 0) == keys(8, 0)[:5] != keys(5, 1)


def test_all_tasks_of_the_folder_are_loaded_when_none_is_named(data):
    assert [task.name for task in load_tasks(data, [], 2, 0)] == ["gsm8k", "mmlu_stem", "mmlu_stem_choice", "ner"]


def test_without_a_folder_questions_are_generated():
    tasks = load_tasks(None, [], 6, seed=3)
    assert [(task.name, task.how) for task in tasks] == [
        ("sums", "write"), ("copy", "write"), ("pick", "weigh"), ("pick_choice", "choose")
    ]  # fmt: skip
    for task in tasks:
        assert len(task.questions) == 6
        assert all(task.judge(question.gold, question.gold).perfect for question in task.questions)
        assert all(len(question.prompt) < 900 for question in task.questions)
    assert tasks[0].questions == load_tasks(None, ["sums"], 6, seed=3)[0].questions
    assert tasks[0].questions != load_tasks(None, ["sums"], 6, seed=4)[0].questions


def test_what_is_missing_is_told(data, tmp_path):
    with pytest.raises(DataError, match=r"no task 'gsm8k' here; there are sums.*need --data"):
        load_tasks(None, ["gsm8k"], 1, 0)
    with pytest.raises(DataError, match="no task 'gsm9k' here; there are gsm8k"):
        load_tasks(data, ["gsm9k"], 1, 0)
    (data / "gsm8k" / "train.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"train\.jsonl\.gz is missing"):
        load_tasks(data, ["gsm8k"], 1, 0)
    write(data / "mmlu_stem" / "test.jsonl.gz", [{"question": "?"}] * 20)
    with pytest.raises(DataError, match="does not have the expected layout"):
        load_tasks(data, ["mmlu_stem"], 1, 0)
