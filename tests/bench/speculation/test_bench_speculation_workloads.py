"""Prompt sets: layouts of the data folder, order, what is refused."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from row_files import write

from paceline.bench.prompts import DataError
from paceline.bench.speculation.entities import entities, entity_examples, sentences
from paceline.bench.speculation.workloads import BUILT_IN_SETS, DEFAULT_SETS, NAMED, WORKLOADS, load_workload, rows_of

SHARED = Path(__file__).parents[4] / "shared" / "data"
CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O
by IN B-PP O
Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
. . O O

Nothing NN B-NP O
is VBZ B-VP O
named VBN I-VP O
in IN B-PP O
this DT B-NP O
long JJ I-NP O
sentence NN I-NP O
here RB O O

"""


def conll(folder: Path, sentences: int = 8) -> None:
    (folder / "conllpp").mkdir()
    (folder / "conllpp" / "conllpp_dev.txt").write_text(CONLL)
    with gzip.open(folder / "conllpp" / "conllpp_train.txt.gz", "wt") as stream:
        stream.write(CONLL * sentences)


def test_edit_asks_for_the_whole_code(tmp_path: Path) -> None:
    write(tmp_path, "edit_eval/edit_eval.jsonl", [{"instruction": "Rename x.", "input": "x = {1}", "output": "y"}])
    (conversation,) = load_workload(NAMED["edit"], tmp_path)
    assert "Rename x." in conversation.turns[0] and "x = {1}" in conversation.turns[0]
    assert conversation.turns[0].endswith("```python\nx = {1}\n```")  # and not the answer


def test_spec_bench_sets_are_its_categories_with_the_topics_of_mt_bench_as_one(tmp_path: Path) -> None:
    rows = [
        {"question_id": number, "category": category, "turns": [f"{category} {number}"]}
        for number, category in enumerate(["writing", "coding", "rag", "rag", "qa", "summarization"])
    ]
    write(tmp_path, "spec_bench/question.jsonl", rows)
    assert Counter(c.category for c in load_workload(NAMED["spec_bench"], tmp_path)) == {
        "mt_bench": 2,
        "rag": 2,
        "qa": 1,
        "summarization": 1,
    }
    assert {c.turns for c in load_workload(NAMED["rag"], tmp_path)} == {("rag 2",), ("rag 3",)}


def test_categories_take_turns_so_that_the_first_prompts_are_a_fair_sample(tmp_path: Path) -> None:
    rows = [{"question_id": i, "category": "rag" if i < 90 else "qa", "turns": [f"text {i}"]} for i in range(100)]
    write(tmp_path, "spec_bench/question.jsonl", rows)
    first = load_workload(NAMED["spec_bench"], tmp_path)[:20]
    assert Counter(c.category for c in first) == {"rag": 10, "qa": 10}


def test_the_seed_fixes_the_order_and_no_prompt_comes_twice(tmp_path: Path) -> None:
    rows = [{"question": f"question {i % 30}", "answer": str(i)} for i in range(60)]
    write(tmp_path, "gsm8k/test.jsonl", rows)
    prompts = [c.turns for c in load_workload(NAMED["gsm8k"], tmp_path, seed=3)]
    assert len(prompts) == len(set(prompts)) == 30
    assert prompts == [c.turns for c in load_workload(NAMED["gsm8k"], tmp_path, seed=3)]
    assert prompts != [c.turns for c in load_workload(NAMED["gsm8k"], tmp_path, seed=4)]


def test_ner_shows_examples_of_the_training_file_before_the_sentence(tmp_path: Path) -> None:
    conll(tmp_path)
    (conversation,) = load_workload(NAMED["ner"], tmp_path)  # the sentence without entities is left out
    messages = conversation.opening()
    assert [message["role"] for message in messages] == ["user", "assistant"] * 5 + ["user"]
    assert messages[-1]["content"] == "EU rejects German call by Peter Blackburn ."
    assert json.loads(messages[1]["content"]) == [
        {"text": "EU", "type": "organization"},
        {"text": "German", "type": "miscellaneous"},
        {"text": "Peter Blackburn", "type": "person"},
    ]
    assert messages[0]["content"].startswith("List the named entities")
    assert not messages[2]["content"].startswith("List")


def test_neighbouring_entities_of_one_kind_stay_apart() -> None:
    tagged = [("Rome", "B-LOC"), ("Paris", "B-LOC"), ("New", "I-LOC"), ("of", "O"), ("York", "I-LOC"), ("X", "I-PER")]
    assert [entity["text"] for entity in entities(tagged)] == ["Rome", "Paris New", "York", "X"]


def test_a_file_without_a_last_blank_line_keeps_its_last_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One CD B-NP O\n\nTwo CD B-NP O")
    assert [[word for word, _ in sentence] for sentence in sentences(tmp_path / "a.txt")] == [["One"], ["Two"]]


def test_ner_without_examples_says_so(tmp_path: Path) -> None:
    conll(tmp_path, sentences=2)
    with pytest.raises(DataError, match="fewer than 5 sentences"):
        load_workload(NAMED["ner"], tmp_path)
    with pytest.raises(DataError, match=r"nowhere\.txt is missing"):
        entity_examples(tmp_path / "nowhere.txt")


def test_turns_of_a_history_leave_out_the_recorded_answers(tmp_path: Path) -> None:
    history = [{"user": "one", "bot": "ONE"}, {"user": "two", "bot": "TWO"}]
    write(tmp_path, "mt_bench_101/mtbench101.jsonl", [{"task": "GR", "id": 1, "history": history}])
    assert load_workload(NAMED["mt_bench_101"], tmp_path)[0].turns == ("one", "two")


def test_built_in_sets_need_no_data_and_never_repeat() -> None:
    for name in BUILT_IN_SETS:
        prompts = {conversation.turns for conversation in load_workload(NAMED[name], None)}
        assert len(prompts) == 96
    copied = load_workload(NAMED["copy"], None)[0].turns[0]
    assert copied.endswith("every year in brackets.") and copied.count(".") > 5


def test_what_is_missing_or_malformed_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"edit_eval\.jsonl of a data folder: give --data"):
        load_workload(NAMED["edit"], None)
    with pytest.raises(DataError, match=r"edit_eval\.jsonl is missing"):
        load_workload(NAMED["edit"], tmp_path)
    write(tmp_path, "edit_eval/edit_eval.jsonl", [{"input": "x"}])
    with pytest.raises(DataError, match="does not have the expected layout: KeyError"):
        load_workload(NAMED["edit"], tmp_path)
    (tmp_path / "edit_eval" / "edit_eval.jsonl").write_text("{not json}\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        load_workload(NAMED["edit"], tmp_path)


def test_names_are_unique_and_the_defaults_are_among_them() -> None:
    assert len(NAMED) == len(WORKLOADS)
    assert {*DEFAULT_SETS, *BUILT_IN_SETS} <= set(NAMED)


@pytest.mark.parametrize("name", [workload.name for workload in WORKLOADS if workload.file])
def test_every_set_reads_the_shared_data(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is missing")
    conversations = load_workload(NAMED[name], SHARED)
    assert len(conversations) >= 20
    assert all(text.strip() for conversation in conversations for text in conversation.turns)


def test_rows_of_ones_own_are_asked_up_to_the_last_answer(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "A1"},
        {"role": "user", "content": "Q2"},
        {"role": "assistant", "content": "A2"},
    ]
    file.write_text("\n".join(json.dumps({"messages": part}) for part in (talk, talk[1:4], talk[1:2], talk[1:2])))
    workload = rows_of(file)
    assert workload.name == "mine"
    found = sorted(load_workload(workload, None), key=lambda one: one.key)
    assert [one.opening() for one in found] == [talk[:4], talk[1:4], talk[1:2]]  # each once
    file.write_text(json.dumps({"messages": []}))
    with pytest.raises(DataError, match="expected layout"):
        load_workload(workload, None)
