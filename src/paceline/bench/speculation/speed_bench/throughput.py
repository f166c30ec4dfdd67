"""SPEED-Bench's throughput split: prompts of fixed input lengths, for answers of low, mixed and high entropy.

Documents of BAMBOO are joined and cut until the whole request, chat template included, has the length. A low-entropy
answer repeats much of its prompt (code, sorting), a high-entropy one goes on with a dialogue that nobody has written.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paceline.bench.prompts import DataError
from paceline.bench.speculation.workloads import Conversation, rows

LENGTHS = (1024, 2048, 8192, 16384, 32768)  # tokens, as published
ENTROPIES = ("low", "mixed", "high")
PROMPTS = 32  # of a length and entropy; published: 512
TOLERANCE = 0.02  # of the length, that a prompt may be shorter: it is cut between words
FIRST_GUESS = 4.0  # characters a token
ATTEMPTS = 12  # to cut a prompt to its length

Count = Callable[[str], int]  # tokens of a request whose only message is this text


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked about documents of ``file``: ``before`` and ``behind`` them, with fields of the first one's row.
    ``read`` gives the row's documents."""

    entropy: str
    name: str
    file: str
    before: str
    behind: str
    read: Callable[[Mapping[str, object]], str]


def content(row: Mapping[str, object]) -> str:
    """A text, or several one below the other."""
    value = row["content"]
    if not isinstance(value, list):
        return str(value)
    return "\n\n".join(f"Part {number + 1}:\n{part}" for number, part in enumerate(value))


def code(row: Mapping[str, object]) -> str:
    return str(row["prompt"])


_SORT = "These parts of a text are out of order."
_SORTED = "Write all of the parts again in their right order, word for word, and nothing else."
_DIALOGUE = "Go on with the dialogue above for as long as you can. Be creative, and let the people in it speak."
_FOLDER = "bamboo/{}.jsonl.gz"

TASKS = (
    Task("low", "code", _FOLDER.format("private_eval_16k"), "The functions of a library.",
         "Write a Python module with a stub of each of these functions and its text above as the docstring.", code),
    Task("low", "sorting shows", _FOLDER.format("showssort_16k"), _SORT, _SORTED, content),
    Task("low", "sorting reports", _FOLDER.format("reportsumsort_4k"), _SORT, _SORTED, content),
    Task("mixed", "papers", _FOLDER.format("paperqa_16k"), "Read these texts.",
         "{question}\nAnswer in detail, and quote what supports the answer.", content),
    Task("mixed", "meetings", _FOLDER.format("meetingqa_4k"), "Read this transcript.",
         "{question}\nAnswer in detail, and quote what supports the answer.", content),
    Task("high", "shows", _FOLDER.format("showspred_16k"), "A dialogue.", _DIALOGUE, content),
    Task("high", "meetings", _FOLDER.format("meetingpred_4k"), "A dialogue.", _DIALOGUE, content),
)  # fmt: skip


@dataclass(slots=True)
class Cutter:
    """Cuts texts to a length in tokens by counting those of whole requests; remembers how long tokens are."""

    count: Count
    _ratio: float = field(default=FIRST_GUESS)  # characters a token, of the last prompt

    def fit(self, before: str, documents: Sequence[str], behind: str, length: int) -> str | None:
        """``before``, as much of the documents as makes a request of at most ``length`` tokens, ``behind``.

        At most ``TOLERANCE`` shorter than ``length``; None when the documents are too short, or the frame too long.
        """
        text = "\n\n".join(documents)
        low, high = 0, len(text)  # characters known to fit, and not known to be too many
        best: str | None = None
        size = min(high, int(length * self._ratio))
        for _ in range(ATTEMPTS):
            prompt = f"{before}\n\n{text[: _word_end(text, size)]}\n\n{behind}"
            tokens = self.count(prompt)
            self._ratio = len(prompt) / max(1, tokens)
            if tokens <= length:
                low, best = size, prompt
                if tokens >= length * (1 - TOLERANCE / 2):
                    return prompt
                if size == high:
                    break
            else:
                high = size
            guess = size + int((length - tokens) * self._ratio)
            size = guess if low < guess < high else min(high, (low + high + 1) // 2)
            if size <= 0 or size == low:
                break
        return best if best is not None and self.count(best) >= length * (1 - TOLERANCE) else None


def _word_end(text: str, size: int) -> int:
    """The last end of a word at or before ``size``; ``size`` where there is none near."""
    if size >= len(text):
        return len(text)
    end = max(text.rfind(mark, max(0, size - 40), size) for mark in (" ", "\n"))
    return end if end > 0 else size


def build_throughput(
    data: Path, length: int, cutter: Cutter, prompts: int = PROMPTS, seed: int = 0
) -> list[Conversation]:
    """``prompts`` conversations of one turn for each entropy (their category), entropies in turns.

    A long prompt takes several documents, so at long lengths prompts share some; none begins like another one of its
    task while there are documents. Raises ``DataError`` without BAMBOO, or when it cannot fill the length.
    """
    made: dict[str, list[Conversation]] = {entropy: [] for entropy in ENTROPIES}
    for entropy, found in made.items():
        tasks = [(task, _documents(data, task, seed)) for task in TASKS if task.entropy == entropy]
        for number in range(prompts):
            task, documents = tasks[number % len(tasks)]
            found.append(_prompt(task, documents, number // len(tasks), length, cutter))
    return [found[i] for i in range(prompts) for found in made.values()]


def _documents(data: Path, task: Task, seed: int) -> list[tuple[str, dict[str, object]]]:
    """(text, row), each text once, in an order drawn by ``seed``."""
    path = data / task.file
    if not path.is_file():
        raise DataError(f"{path} is missing: the throughput split is built from the folder bamboo")
    try:
        found = list({task.read(row): row for row in rows(path)}.items())
    except KeyError as error:
        raise DataError(f"{path} does not have the expected layout: {error!r}") from error
    random.Random(f"{seed} {task.name}").shuffle(found)
    return found


def _prompt(
    task: Task, documents: Sequence[tuple[str, dict[str, object]]], number: int, length: int, cutter: Cutter
) -> Conversation:
    first = number % len(documents)
    order = [*documents[first:], *documents[:first]]
    behind = task.behind.format_map({key: str(value) for key, value in order[0][1].items()})
    text = cutter.fit(task.before, _enough([one for one, _ in order], length), behind, length)
    if text is None:
        raise DataError(f"{task.file}: its texts do not make a prompt of {length} tokens")
    return Conversation(f"{task.name}:{length}:{number}", task.entropy, (text,))


def _enough(texts: Sequence[str], length: int) -> list[str]:
    """The first texts whose characters are surely enough for ``length`` tokens."""
    chosen, characters = [], 0
    for text in texts:
        chosen.append(text)
        characters += len(text)
        if characters > 12 * length:
            break
    return chosen
