"""Rows: what is learned of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_task import chat, task_rows

from paceline.errors import InvalidRequestError
from paceline.models.tokenizer import Tokenizer, load_tokenizer
from paceline.training.data import LEAST_PROMPTS, Example, load_examples, split_examples
from tiny_tokenizer import save_tiny_tokenizer

EOS = 2
GOOD = [json.dumps(row).encode() for row in task_rows(20)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    return load_tokenizer(folder)


def load(tokenizer: Tokenizer, path: Path, *lines: bytes, answers: bool = True, length: int = 80) -> list[Example]:
    path = path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    return load_examples(path, tokenizer, frozenset({EOS}), length, answers=answers)


def test_the_prompt_is_what_a_request_has_and_the_answer_ends(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = {"messages": [{"role": "system", "content": "Be short."}, *chat("Hi", "Yes")["messages"]]}
    completion = {"prompt": "one two", "completion": " three"}
    found = load(tokenizer, tmp_path, json.dumps(row).encode(), json.dumps(completion).encode(), *GOOD)
    prompt = tokenizer.apply_chat_template(row["messages"][:-1])
    assert found[0].prompt_ids == tokenizer.encode(prompt, add_special_tokens=False)
    assert found[0].answer_ids is not None and found[0].answer_ids[-1] == EOS
    assert tokenizer.decode(found[0].answer_ids).strip() == "Yes"
    assert found[1].prompt_ids == tokenizer.encode("one two")
    assert found[1].answer_ids == [*tokenizer.encode(" three", add_special_tokens=False), EOS]
    assert [example.line for example in found] == list(range(1, 23))


def test_only_a_line_feed_ends_a_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    odd = json.dumps(chat("a\u2028b\x85c", "d"), ensure_ascii=False).encode()
    found = load(tokenizer, tmp_path, b"\xef\xbb\xbf" + odd + b"\r", b"", *GOOD)
    assert len(found) == 21 and found[0].line == 1 and found[1].line == 3


BAD = [
    (b'{"messages": [', "line 2: it is not JSON"),
    (b'{"prompt": "\xff", "completion": "x"}', "line 2: it is not UTF-8: byte 13 is 0xff"),
    (b"[" * 100_000, "line 2: it is nested too deeply"),
    (b"[1]", "line 2: expected an object .* it is a list"),
    (b'{"text": "a"}', "line 2: expected 'messages', .* it has 'text'"),
    (b'{"prompt": "a", "completion": "b", "id": 3}', "line 2: unknown key 'id'"),
    (b'{"prompt": "a"}', "line 2: it has no 'completion'"),
    (b'{"prompt": "a", "completion": ""}', "line 2: 'completion' is empty"),
    (b'{"prompt": 3, "completion": "b"}', "line 2: 'prompt' must be a string; it is a number"),
    (b'{"messages": []}', "line 2: 'messages' must be a list of messages; it is empty"),
    (b'{"messages": ["a"]}', "line 2: message 1 must be an object"),
    (b'{"messages": [{"role": "user", "content": null}]}', "line 2: message 1: 'content' must be a string; it is null"),
    (b'{"messages": [{"role": "user", "content": " "}]}', "line 2: message 1: 'content' is empty"),
    (b'{"messages": [{"role": "tool", "content": "a"}]}', "line 2: message 1: 'role' must be one of"),
    (b'{"messages": [{"role": "user", "content": "a", "name": "b"}]}', "line 2: message 1: unknown key 'name'"),
    (b'{"messages": [{"role": "user", "content": "a"}]}', "line 2: the last message must be the assistant's"),
    (b'{"messages": [{"role": "assistant", "content": "a"}]}', "line 2: there is no message of the user"),
    (b'{"prompt": "a", "completion": "b</s>c"}', "line 2: the answer has a token in it that ends answers"),
    (json.dumps({"prompt": "a", "completion": "x " * 60}).encode(), "line 2: it has [0-9]+ tokens; at most 80"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_bad_line_is_named_with_what_is_wrong(
    tokenizer: Tokenizer, tmp_path: Path, line: bytes, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        load(tokenizer, tmp_path, GOOD[0], line, *GOOD[1:])


def test_all_bad_lines_are_told_at_once_up_to_twenty(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        load(tokenizer, tmp_path, *GOOD, *[b"{}"] * 25)
    text = str(caught.value)
    assert "25 lines cannot be used" in text and "line 21:" in text and "line 40:" in text
    assert "line 41" not in text and "and 5 more" in text


def test_too_few_different_prompts_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=f"has 1 different prompts; at least {LEAST_PROMPTS}"):
        load(tokenizer, tmp_path, *[GOOD[0]] * 50)
    with pytest.raises(InvalidRequestError, match=r"cannot read .*: No such file"):
        load_examples(tmp_path / "none.jsonl", tokenizer, frozenset({EOS}), 80, answers=True)


def test_prompts_without_answers_are_enough_for_a_speculator(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [json.dumps(row).encode() for row in task_rows(20, answers=False)] + [b'{"prompt": "a"}', GOOD[0]]
    found = load(tokenizer, tmp_path, *rows, answers=False)
    assert [example.answer_ids is None for example in found] == [True] * 21 + [False]


def test_rows_with_the_same_prompt_stay_together(tokenizer: Tokenizer, tmp_path: Path) -> None:
    twice = load(tokenizer, tmp_path, *GOOD, *GOOD)
    train, held = split_examples(twice, 0.2, seed=3)
    assert len(train) + len(held) == 40 and len(held) >= 4
    assert not {tuple(e.prompt_ids) for e in train} & {tuple(e.prompt_ids) for e in held}
    assert split_examples(twice, 0.2, seed=3)[1] == held != split_examples(twice, 0.2, seed=4)[1]
