"""The two tasks: what a row of each is, and how its answers are judged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import entities
import matching

Row = tuple[str, str]  # what the user writes, what the assistant should answer


@dataclass(frozen=True)
class Task:
    """``rows(data, held_out, count, seed)`` gives rows in random order, of a part of the data that no row of the other
    part has anything to do with; ``facts(answer)`` what an answer says, nothing where it is not in the task's form."""

    system: str
    rows: Callable[[Path, bool, int, int], list[Row]]
    facts: Callable[[str], Counter[Hashable]]

    def as_chat(self, said: str, answer: str | None) -> str:
        """A row as a line of ``paceline train``'s data; None: the model is to answer."""
        messages = [("system", self.system), ("user", said)] + ([] if answer is None else [("assistant", answer)])
        line = {"messages": [{"role": role, "content": content} for role, content in messages]}
        return json.dumps(line, ensure_ascii=False) + "\n"


TASKS = {
    "entities": Task(entities.SYSTEM, entities.rows, entities.facts),
    "matching": Task(matching.SYSTEM, matching.rows, matching.facts),
}


def f1(task: Task, answers: list[str], expected: list[str]) -> float:
    """Of the facts that the answers state, micro-averaged over all."""
    right = given = wanted = 0
    for answer, reference in zip(answers, expected, strict=True):
        own, other = task.facts(answer), task.facts(reference)
        right, given, wanted = right + (own & other).total(), given + own.total(), wanted + other.total()
    return 2 * right / max(1, given + wanted)
