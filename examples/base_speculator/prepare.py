"""Prompts for the base speculator: public sets whose licence allows it, none of what it is measured on.

    python examples/base_speculator/prepare.py DATA OUT/prompts.jsonl

``DATA`` holds the sets of ``SETS`` as JSON lines. Every line of the result is ``{"set": ..., "messages": [...]}``, in
the order of a seeded shuffle, so that any first part of it is a fair sample of the whole.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Messages = list[dict[str, str]]

SEED = 1
MOST_CHARACTERS = 2600  # of a conversation: about 600 tokens
SHINGLE = 10  # words in a row that a prompt may not share with a prompt that is measured on

#: What is measured on: no prompt may overlap with these.
MEASURED = ("spec_bench/question.jsonl", "mt_bench/question.jsonl", "edit_eval/edit_eval.jsonl", "gsm8k/test.jsonl")


@dataclass(frozen=True, slots=True)
class PromptSet:
    """``take``: how many rows, chosen by the seed (None: all). ``conversations``: of a row, the prompts made of it."""

    name: str
    path: str
    licence: str
    take: int | None
    conversations: Callable[[Row, random.Random], Iterator[Messages]]


def user(text: str) -> Messages:
    return [{"role": "user", "content": text.strip()}]


def multi_turn(row: Row, _: random.Random) -> Iterator[Messages]:
    """Every turn of the user, behind the turns that were given before it."""
    messages: Messages = []
    for turn in row["history"]:
        messages = [*messages, *user(turn["user"])]
        yield messages
        messages = [*messages, {"role": "assistant", "content": turn["bot"].strip()}]


def field(name: str) -> Callable[[Row, random.Random], Iterator[Messages]]:
    def conversations(row: Row, _: random.Random) -> Iterator[Messages]:
        yield user(row[name])

    return conversations


def instruction(row: Row, _: random.Random) -> Iterator[Messages]:
    yield user(f"{row['instruction']}\n\n{row['instances'][0]['input']}")


def choice_question(row: Row, generator: random.Random) -> Iterator[Messages]:
    letters = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True))
    yield user(
        generator.choice(
            (
                f"{row['question']}\n{letters}\nAnswer and explain why.",
                f"Explain briefly, as a teacher would, what one has to know to answer this: {row['question']}",
                f"{row['question']}\n{letters}",
            )
        )
    )


def short_code(row: Row, generator: random.Random) -> Iterator[Messages]:
    tests = "\n".join(row["test_list"])
    yield user(row["text"] + generator.choice(("", f"\nYour code should pass these tests:\n{tests}")))


def completion(row: Row, generator: random.Random) -> Iterator[Messages]:
    request = generator.choice(("Complete this function:", "Implement the following function in Python."))
    yield user(f"{request}\n\n```python\n{row['prompt']}```")


def function_call(row: Row, generator: random.Random) -> Iterator[Messages]:
    messages: Messages = [{"role": m["role"], "content": m["content"].strip()} for m in row["question"][0]]
    if any(m["role"] not in ("system", "user") for m in messages) or messages[-1]["role"] != "user":
        return
    if generator.random() < 0.3:
        names = ", ".join(f"{f['name']}: {f['description']}" for f in row["function"][:3])
        messages = [*messages[:-1], *user(f"{messages[-1]['content']}\nThese functions can be called: {names}")]
    yield messages


def dialogue(row: Row, generator: random.Random) -> Iterator[Messages]:
    lines = [line for line in row["conversation"].split("\n") if line.strip()]
    personas = f"User 1:\n{row['user_1_personas']}\n\nUser 2:\n{row['user_2_personas']}"
    yield user(
        generator.choice(
            (
                "Summarize this conversation:\n\n" + "\n".join(lines[:20]),
                "Write how this conversation goes on:\n\n" + "\n".join(lines[:8]),
                f"Do these two people get along? Explain.\n\n{personas}",
                f"Write a short dialogue between two people.\n\n{personas}",
                f"You are this person:\n{row['user_1_personas']}\n\nIntroduce yourself.",
            )
        )
    )


def profile(row: Row, generator: random.Random) -> Iterator[Messages]:
    yield user(
        generator.choice(
            (
                f"Summarize this profile in three sentences:\n\n{row['profile_summary']}",
                f"What would be a good first date for this person?\n\n{row['profile_summary']}",
                f"Write a list of what this person looks for in a partner:\n\n{row['preferences_summary']}",
                f"Write the attributes of this person as JSON:\n\n{row['profile_summary']}",
            )
        )
    )


def passage(row: Row, generator: random.Random) -> Iterator[Messages]:
    """A piece of a long text, to be summarized or explained; two of each text."""
    text = re.sub(r"\s+", " ", row["content"]).strip()
    for _ in range(2):
        size = generator.randrange(900, 2300)
        start = text.find(" ", generator.randrange(0, max(1, len(text) - size))) + 1
        piece = text[start : start + size].rsplit(" ", 1)[0]
        yield user(
            generator.choice(("Summarize: ", "Summarize the following text.\n\n", "What is this about?\n\n")) + piece
        )


def evidence(row: Row, _: random.Random) -> Iterator[Messages]:
    yield user(re.sub(r"\s+", " ", row["evidence"]).strip() + "\n\n" + row["question"])


SETS = (
    PromptSet("mt_bench_101", "mt_bench_101/mtbench101.jsonl", "Apache-2.0", None, multi_turn),
    PromptSet("arena_hard", "arena_hard/arena-hard-v0.1.question.jsonl", "Apache-2.0", None, field("prompt")),
    PromptSet("arena_hard", "arena_hard/arena-hard-v2.0.question.jsonl", "Apache-2.0", None, field("prompt")),
    PromptSet("self_instruct", "self_instruct/user_oriented_instructions.jsonl", "Apache-2.0", None, instruction),
    PromptSet("self_instruct", "self_instruct/seed_tasks.jsonl", "Apache-2.0", None, instruction),
    PromptSet("writing_bench", "writing_bench/length_subset.jsonl.gz", "Apache-2.0", None, field("query")),
    PromptSet("mmlu_stem", "mmlu_stem/test.jsonl.gz", "MIT", 800, choice_question),
    PromptSet("gsm8k train", "gsm8k/train.jsonl.gz", "MIT", 700, field("question")),
    PromptSet("math", "math/math_test.jsonl.gz", "MIT", 450, field("problem")),
    PromptSet("mbpp", "mbpp/mbpp.jsonl", "CC BY 4.0", 500, short_code),
    PromptSet("human_eval", "human_eval/HumanEval.jsonl", "MIT", None, completion),
    PromptSet("bfcl", "bfcl/BFCL_v4_live_multiple.jsonl.gz", "Apache-2.0", 250, function_call),
    PromptSet("bfcl", "bfcl/BFCL_v4_live_irrelevance.jsonl.gz", "Apache-2.0", 200, function_call),
    PromptSet("bfcl", "bfcl/BFCL_v4_multiple.jsonl.gz", "Apache-2.0", 100, function_call),
    PromptSet("persona_chat", "synthetic_persona_chat/valid.jsonl.gz", "CC BY 4.0", 300, dialogue),
    PromptSet("persona_chat", "synthetic_persona_chat/test.jsonl.gz", "CC BY 4.0", 300, dialogue),
    PromptSet("preference_matching", "preference_matching/profiles.jsonl", "MIT", None, profile),
    PromptSet("bamboo", "bamboo/reportsumsort_4k.jsonl.gz", "MIT", None, passage),
    PromptSet("bamboo", "bamboo/meetingqa_4k.jsonl.gz", "MIT", None, evidence),
    PromptSet("bamboo", "bamboo/paperqa_4k.jsonl.gz", "MIT", None, evidence),
    PromptSet("bamboo", "bamboo/showspred_4k.jsonl.gz", "MIT", None, passage),
    PromptSet("bamboo", "bamboo/meetingpred_4k.jsonl.gz", "MIT", None, passage),
)


def read_rows(path: Path) -> list[Row]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.decode("utf-8").split("\n") if line.strip()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def shingles(text: str) -> set[tuple[str, ...]]:
    """Every ``SHINGLE`` words in a row; of a shorter text the whole."""
    found = words(text)
    if not found:
        return set()
    return {tuple(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))}


def measured_shingles(data: Path) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for path in MEASURED:
        for row in read_rows(data / path):
            for text in row.get("turns") or [row.get("question") or f"{row['instruction']}\n{row['input']}"]:
                found |= shingles(text)
    return found


def usable(messages: Messages) -> bool:
    """Short enough, and in letters that the model was trained on."""
    text = "".join(message["content"] for message in messages)
    plain = sum(character.isascii() for character in text)
    return bool(messages[-1]["content"]) and len(text) <= MOST_CHARACTERS and plain >= 0.95 * len(text)


def prompts(data: Path) -> tuple[list[Row], Counter[str]]:
    """All prompts, shuffled, and how many were left out and why."""
    measured, seen = measured_shingles(data), set()
    found: list[Row] = []
    dropped: Counter[str] = Counter()
    for chosen in SETS:
        generator = random.Random(f"{SEED} {chosen.path}")
        rows = read_rows(data / chosen.path)
        for row in rows if chosen.take is None else generator.sample(rows, min(chosen.take, len(rows))):
            for messages in chosen.conversations(row, generator):
                key = json.dumps(messages)
                if not usable(messages):
                    dropped["too long or not English"] += 1
                elif any(shingles(message["content"]) & measured for message in messages):
                    dropped["overlaps with what is measured on"] += 1
                elif key in seen:
                    dropped["twice"] += 1
                else:
                    seen.add(key)
                    found.append({"set": chosen.name, "messages": messages})
    random.Random(SEED).shuffle(found)
    return found, dropped


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    found, dropped = prompts(data)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    print(f"{len(found)} prompts: {dict(Counter(row['set'] for row in found))}; left out: {dict(dropped)}")


if __name__ == "__main__":
    main()
