"""The tasks of a data folder: GSM8K, MMLU's STEM subjects and CoNLL++, each with examples before every question.

Prompts are plain texts for the completions route, as lm-eval's are, so models without a chat template answer them too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from paceline.bench.prompts import DataError
from paceline.bench.quality.built_in import built_in_tasks
from paceline.bench.quality.judges import judge_entities, judge_number, judge_text
from paceline.bench.quality.tasks import Question, Task
from paceline.bench.speculation.entities import TASK, WORDS, entities, entity_examples, sentences, text_of
from paceline.bench.speculation.workloads import rows

SHOTS = 5  # examples before a question
EXAMPLE_SEED = 11  # the examples are the same in every sample
LETTERS = (" A", " B", " C", " D")
MATHS_TOKENS = 256
ENTITY_TOKENS = 128

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """A task of the data folder: ``file`` holds its questions. ``load`` takes that file's path, a number of rows and a
    seed, and gives the task."""

    name: str
    file: str
    load: Callable[[Path, int, int], Task]


def gsm8k(path: Path, count: int, seed: int) -> Task:
    """Grade-school maths, answered in steps; the result stands behind ``####``."""
    examples = path.parent / "train.jsonl.gz"
    _check_file(examples)
    shown = random.Random(EXAMPLE_SEED).sample(list(rows(examples)), SHOTS)
    before = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in shown)
    questions = [
        Question(str(number), f"{before}Question: {row['question']}\nAnswer:", row["answer"])
        for number, row in _sample(list(enumerate(rows(path))), count, seed)
    ]
    title = f"GSM8K, {SHOTS} examples, greedy text, final number"
    return Task("gsm8k", title, "write", judge_number, questions, max_tokens=MATHS_TOKENS, stop=("Question:",))


def mmlu_stem(path: Path, count: int, seed: int) -> Task:
    """Four choices; the letter with the largest log probability is the answer."""
    title = f"MMLU STEM, {SHOTS} examples, likeliest letter"
    return Task("mmlu_stem", title, "weigh", judge_text, _mmlu(path, count, seed), options=LETTERS)


def mmlu_stem_choice(path: Path, count: int, seed: int) -> Task:
    """The same questions; the engine's grammar allows nothing but a letter."""
    title = f"the same questions as mmlu_stem, greedy text bound to {'|'.join(LETTERS).replace(' ', '')}"
    return Task("mmlu_stem_choice", title, "choose", judge_text, _mmlu(path, count, seed), options=LETTERS)


def ner(path: Path, count: int, seed: int) -> Task:
    """The named entities of a sentence as JSON."""
    examples = entity_examples(path.parent / "conllpp_train.txt.gz")
    shown = [(question.removeprefix(f"{TASK}\n\n"), answer) for question, answer in examples]
    before = f"{TASK}\n\n" + "".join(f"Sentence: {text}\nEntities: {answer}\n\n" for text, answer in shown)
    usable = [one for one in enumerate(sentences(path)) if len(one[1]) in WORDS]
    questions = [
        Question(
            str(number),
            f"{before}Sentence: {text_of(sentence)}\nEntities:",
            json.dumps(entities(sentence), ensure_ascii=False),
        )
        for number, sentence in _sample(usable, count, seed)
    ]
    title = f"CoNLL++, {len(shown)} examples, entities as JSON, F1 of (text, type)"
    return Task("ner", title, "write", judge_entities, questions, "F1", ENTITY_TOKENS, ("\n",))


SOURCES = (
    Source("gsm8k", "gsm8k/test.jsonl", gsm8k),
    Source("mmlu_stem", "mmlu_stem/test.jsonl.gz", mmlu_stem),
    Source("mmlu_stem_choice", "mmlu_stem/test.jsonl.gz", mmlu_stem_choice),
    Source("ner", "conllpp/conllpp_dev.txt", ner),
)


def load_tasks(data: Path | None, names: Sequence[str], count: int, seed: int) -> list[Task]:
    """The tasks ``names`` (none: all) with ``count`` questions each, drawn by ``seed``. Without ``data`` these are the
    built-in ones, which are generated.

    Raises ``DataError``: an unknown name, or a file of the folder that is missing or of another layout."""
    if data is None:
        made = {task.name: task for task in built_in_tasks(count, seed)}
        return [made[name] for name in _known(names, list(made), "; those on real questions need --data")]
    sources = {source.name: source for source in SOURCES}
    return [_load(sources[name], data, count, seed) for name in _known(names, list(sources), "")]


def _known(names: Sequence[str], known: Sequence[str], hint: str) -> Sequence[str]:
    for name in names:
        if name not in known:
            raise DataError(f"there is no task {name!r} here; there are {', '.join(known)}{hint}")
    return list(dict.fromkeys(names)) or known


def _load(source: Source, data: Path, count: int, seed: int) -> Task:
    path = data / source.file
    _check_file(path)
    try:
        return source.load(path, count, seed)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not have the expected layout: {error!r}") from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing: the data folder must have it, or choose other tasks with --task")


def _sample(items: Sequence[T], count: int, seed: int) -> list[T]:
    """``count`` of the items (all, if there are fewer), chosen and ordered by ``seed``. A larger sample begins with a
    smaller one's."""
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    return shuffled[:count]


def _mmlu(path: Path, count: int, seed: int) -> list[Question]:
    """The file has no training part: the examples are rows that are then not asked."""
    everything = list(enumerate(rows(path)))
    shown = random.Random(EXAMPLE_SEED).sample(everything, SHOTS)
    examples = {number for number, _ in shown}
    head = "The following are multiple choice questions (with answers).\n\n"
    before = head + "".join(f"{_asked(row)}{LETTERS[row['answer']]}\n\n" for _, row in shown)
    rest = [one for one in everything if one[0] not in examples]
    return [
        Question(str(number), before + _asked(row), LETTERS[row["answer"]])
        for number, row in _sample(rest, count, seed)
    ]


def _asked(row: dict[str, object]) -> str:
    choices = row["choices"]
    assert isinstance(choices, list)
    listed = "".join(f"{letter.strip()}. {choice}\n" for letter, choice in zip(LETTERS, choices, strict=True))
    return f"{row['question']}\n{listed}Answer:"
