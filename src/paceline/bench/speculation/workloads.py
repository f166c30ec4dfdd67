"""Prompt sets: one table, one loader a layout of the data folder (``docs/benchmarks.md`` names the sources)."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from paceline.bench.prompts import DataError
from paceline.bench.speculation.entities import entity_examples, entity_questions
from paceline.bench.text import passage

BUILT_IN_PROMPTS = 96
MT_BENCH_TOPICS = frozenset(("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"))


Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the user says in each turn; between the turns stand the answers that the model really gives. ``examples``:
    questions with their answers, shown before the first turn; ``system``: the system message."""

    key: str
    category: str
    turns: tuple[str, ...]
    examples: tuple[tuple[str, str], ...] = ()
    system: str = ""

    def opening(self) -> list[Message]:
        """The messages of the first request."""
        shown = [
            {"role": role, "content": text}
            for exchange in self.examples
            for role, text in zip(("user", "assistant"), exchange, strict=True)
        ]
        before = [{"role": "system", "content": self.system}] if self.system else []
        return [*before, *shown, {"role": "user", "content": self.turns[0]}]


Load = Callable[[Path], list[Conversation]]


@dataclass(frozen=True, slots=True)
class Workload:
    """A named set. ``file`` lies in the data folder; "" for a set that is generated."""

    name: str
    file: str
    load: Load


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, gzip allowed."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:  # rows may hold other line separators
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}, line {number} is not JSON: {error}") from error


def by_template(template: str, category: str = "") -> Load:
    """One turn: ``template`` with the row's fields; lists become lines. ``category`` names the field that has it."""

    def load(path: Path) -> list[Conversation]:
        found = []
        for number, row in enumerate(rows(path)):
            values = {key: "\n".join(map(str, v)) if isinstance(v, list) else v for key, v in row.items()}
            found.append(Conversation(str(number), str(row.get(category, "")), (template.format_map(values),)))
        return found

    return load


def by_turns(*categories: str) -> Load:
    """Rows with ``turns``; of Spec-Bench's categories only these (none: all), where MT-Bench's topics are one."""

    def load(path: Path) -> list[Conversation]:
        found = []
        for row in rows(path):
            category = "mt_bench" if row["category"] in MT_BENCH_TOPICS else str(row["category"])
            if not categories or category in categories:
                found.append(Conversation(str(row["question_id"]), category, tuple(row["turns"])))
        return found

    return load


def by_history(path: Path) -> list[Conversation]:
    """Rows with a ``history`` of ``{user, bot}``."""
    return [
        Conversation(str(number), str(row["task"]), tuple(turn["user"] for turn in row["history"]))
        for number, row in enumerate(rows(path))
    ]


def by_instances(path: Path) -> list[Conversation]:
    """Self-Instruct: an ``instruction``, and the ``input`` of its first instance."""
    return [
        Conversation(str(row["id"]), "", (f"{row['instruction']}\n\n{row['instances'][0]['input']}".strip(),))
        for row in rows(path)
    ]


def by_choices(path: Path) -> list[Conversation]:
    """A ``question`` with lettered ``choices``."""
    found = []
    for number, row in enumerate(rows(path)):
        choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDEFGH", row["choices"], strict=False))
        found.append(Conversation(str(number), str(row["type"]), (f"{row['question']}\n{choices}",)))
    return found


def by_seed_modifier(path: Path) -> list[Conversation]:
    """A ``writing_prompt`` whose ``<SEED>`` is the first modifier."""
    return [
        Conversation(str(row["id"]), "", (row["writing_prompt"].replace("<SEED>", row["seed_modifiers"][0]),))
        for row in rows(path)
    ]


def by_profiles(path: Path) -> list[Conversation]:
    """Each profile with the next one of the file: do they match, and why."""
    people = list(rows(path))
    return [
        Conversation(
            str(number),
            "",
            (
                f"One person:\n{one['profile_summary']}\nLooks for: {one['preferences_summary']}\n\n"
                f"Another person:\n{other['profile_summary']}\n\n"
                "Give a score from 1 to 10 for how well they match, and explain it in two sentences.",
            ),
        )
        for number, (one, other) in enumerate(pairwise(people))
    ]


def by_messages(path: Path) -> list[Conversation]:
    """Rows for training (see docs/training.md): ``messages`` up to the last user's, which is asked."""
    found = []
    for number, row in enumerate(rows(path)):
        messages = row["messages"]
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        talk = [message["content"] for message in messages[bool(system) :]]
        examples = tuple(zip(talk[:-1:2], talk[1::2], strict=True))
        found.append(Conversation(str(number), "", (talk[-1],), examples, system))
    return found


def rows_of(path: Path) -> Workload:
    """A set of one's own: a file of chat rows, named after it."""
    return Workload(path.stem, str(path.resolve()), by_messages)


def by_sentences(path: Path) -> list[Conversation]:
    """Sentences whose named entities are asked for as JSON, with examples from the training file beside this one."""
    examples = tuple(entity_examples(path.parent / "conllpp_train.txt.gz"))
    return [Conversation(str(i), "", (question,), examples) for i, question in enumerate(entity_questions(path))]


def generated(task: str) -> Load:
    """Passages from a small grammar, each with ``task`` behind it."""

    def load(_: Path) -> list[Conversation]:
        texts = [passage(7_000 + i, 8) for i in range(BUILT_IN_PROMPTS)]
        return [Conversation(str(i), "", (f"{text.rpartition('.')[0]}.\n\n{task}",)) for i, text in enumerate(texts)]

    return load


_EDIT = (
    "{instruction}\n\nAnswer with the whole code after this change and nothing else.\n\n```python\n{input}\n```"
)  # fmt: skip
_COMPLETE = "Complete this Python function. Answer with the whole function.\n\n```python\n{prompt}\n```"
_SPEC_BENCH = "spec_bench/question.jsonl"

WORKLOADS = (
    Workload("edit", "edit_eval/edit_eval.jsonl", by_template(_EDIT)),
    Workload("summarization", _SPEC_BENCH, by_turns("summarization")),
    Workload("rag", _SPEC_BENCH, by_turns("rag")),
    Workload("ner", "conllpp/conllpp_dev.txt", by_sentences),
    Workload("chat", "mt_bench/question.jsonl", by_turns()),
    Workload("spec_bench", _SPEC_BENCH, by_turns()),
    Workload("translation", _SPEC_BENCH, by_turns("translation")),
    Workload("qa", _SPEC_BENCH, by_turns("qa")),
    Workload("math_reasoning", _SPEC_BENCH, by_turns("math_reasoning")),
    Workload("gsm8k", "gsm8k/test.jsonl", by_template("{question}")),
    Workload("math500", "math/math500.jsonl", by_template("{question}")),
    Workload("math", "math/math_test.jsonl.gz", by_template("{problem}", "type")),
    Workload("aime24", "math/aime24.jsonl", by_template("{problem}")),
    *(
        Workload(f"mmath_{language}", f"mmath/{language}.jsonl", by_template("{question}"))
        for language in ("en", "ar", "es", "fr", "ja", "ko", "pt", "th", "vi", "zh")
    ),
    Workload("mmlu_stem", "mmlu_stem/test.jsonl.gz", by_choices),
    Workload("human_eval", "human_eval/HumanEval.jsonl", by_template(_COMPLETE)),
    Workload("mbpp", "mbpp/mbpp.jsonl", by_template("{text}\nThe function should pass these tests:\n{test_list}")),
    Workload("arena_hard", "arena_hard/arena-hard-v0.1.question.jsonl", by_template("{prompt}")),
    Workload("arena_hard_v2", "arena_hard/arena-hard-v2.0.question.jsonl", by_template("{prompt}", "category")),
    Workload("alpaca", "alpaca_80/question.jsonl", by_turns()),
    Workload("alpaca_eval", "alpaca_eval/instructions.jsonl", by_template("{instruction}", "dataset")),
    Workload("self_instruct", "self_instruct/user_oriented_instructions.jsonl", by_instances),
    Workload("mt_bench_101", "mt_bench_101/mtbench101.jsonl", by_history),
    Workload("writing_bench", "writing_bench/length_subset.jsonl.gz", by_template("{query}", "domain1")),
    Workload("creative_writing", "creative_writing/prompts_v3.jsonl", by_seed_modifier),
    Workload("preference_matching", "preference_matching/profiles.jsonl", by_profiles),
    Workload("copy", "", generated("Write the text above again, word for word, with every year in brackets.")),
    Workload("story", "", generated("What happened on the next day? Go on with the story.")),
)
NAMED: Mapping[str, Workload] = {workload.name: workload for workload in WORKLOADS}
DEFAULT_SETS = ("edit", "summarization", "rag", "ner", "chat")
BUILT_IN_SETS = ("copy", "story")


def load_workload(workload: Workload, data: Path | None, seed: int = 0) -> list[Conversation]:
    """The set's conversations, each once, in an order that ``seed`` fixes and in which categories take turns, so that
    any number of the first ones is a fair sample.

    Raises ``DataError``: no data folder, the file is missing or not of the expected layout.
    """
    path = (data or Path()) / workload.file
    if workload.file and data is None and not Path(workload.file).is_absolute():
        raise DataError(f"it needs {workload.file} of a data folder: give --data or PACELINE_BENCH_DATA")
    if workload.file and not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        found = workload.load(path)
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} does not have the expected layout: {error!r}") from error
    unique = list({(one.system, one.examples, one.turns): one for one in found}.values())
    random.Random(seed).shuffle(unique)
    return in_turns(unique)


def in_turns(conversations: Sequence[Conversation]) -> list[Conversation]:
    """The same conversations, one of each category after another while there are any."""
    seen: dict[str, int] = {}
    order = []
    for position, conversation in enumerate(conversations):
        turn = seen[conversation.category] = seen.get(conversation.category, -1) + 1
        order.append((turn, position))
    return [conversations[position] for _, position in sorted(order)]
