"""What is asked and how an answer is judged. Three ways to ask, so that each part of an engine that could spoil an
answer is used: long greedy texts, log probabilities, and output that is bound to a choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

#: ``write``: greedy text up to a stop string. ``weigh``: the option with the largest log probability behind the prompt.
#: ``choose``: greedy text that the engine's grammar binds to one of the options.
How = Literal["write", "weigh", "choose"]


@dataclass(frozen=True, slots=True)
class Question:
    """``key`` names it in reports; ``gold`` is the right answer, in the form that the task's judge reads."""

    key: str
    prompt: str
    gold: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Things found rightly, found, and to be found, in one answer. A question with one right answer has 0 or 1, 1, 1.
    ``readable`` is False where the answer had not the form that was asked for."""

    hits: int
    guesses: int
    golds: int
    readable: bool = True

    @property
    def perfect(self) -> bool:
        return self.hits == self.guesses == self.golds


#: Takes an answer and the question's ``gold``.
Judge = Callable[[str, str], Counts]


@dataclass(frozen=True, slots=True)
class Task:
    """Questions of one kind. ``title`` says where they are from and how they are asked. ``options`` are what ``weigh``
    and ``choose`` choose from, in the form in which they follow the prompt."""

    name: str
    title: str
    how: How
    judge: Judge
    questions: Sequence[Question]
    metric: Literal["accuracy", "F1"] = "accuracy"
    max_tokens: int = 1
    stop: Sequence[str] = ()
    options: Sequence[str] = ()


def micro_f1(counts: Sequence[Counts]) -> float:
    """2 hits / (guesses + golds) over all answers; for one guess a question this is the share of right answers. 1.0
    where there was nothing to find and nothing was found."""
    total = sum(count.guesses + count.golds for count in counts)
    return 2 * sum(count.hits for count in counts) / total if total else 1.0
