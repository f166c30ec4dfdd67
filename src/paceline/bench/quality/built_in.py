"""Tasks that need no data folder: sums, copying, and picking a word. They do not say how good a model is on real
questions, but go through the same parts of an engine, and show whether settings change answers."""

from __future__ import annotations

import random
from collections.abc import Callable

from paceline.bench.quality.judges import judge_number, judge_text
from paceline.bench.quality.tasks import Question, Task
from paceline.bench.text import PLACES, THINGS, sentence

LETTERS = (" A", " B", " C", " D")
EXAMPLE_SEED = 11


def built_in_tasks(count: int, seed: int) -> list[Task]:
    """``count`` generated questions of each kind, drawn by ``seed``."""
    sums = _questions(_sum, count, seed, "Sums.\n\n", 3)
    copies = _questions(_copy, count, seed, "Each line is written twice.\n\n", 1)
    picked = _questions(_pick, count, seed, "", 2)
    return [
        Task("sums", "generated sums, 3 examples", "write", judge_number, sums, max_tokens=8, stop=("\n",)),
        Task("copy", "a generated sentence, again", "write", judge_text, copies, max_tokens=64, stop=("\n",)),
        Task("pick", "a named word among four, likeliest letter", "weigh", judge_text, picked, options=LETTERS),
        Task("pick_choice", "the same, bound to a letter", "choose", judge_text, picked, options=LETTERS),
    ]


Made = tuple[str, str]  # a question and its answer, which begins with a space


def _questions(make: Callable[[random.Random], Made], count: int, seed: int, head: str, shots: int) -> list[Question]:
    rng = random.Random(EXAMPLE_SEED)
    before = head + "".join(f"{question}{answer}\n\n" for question, answer in (make(rng) for _ in range(shots)))
    rng = random.Random(f"{make.__name__} {seed}")
    made = [make(rng) for _ in range(count)]
    return [Question(str(number), before + question, answer) for number, (question, answer) in enumerate(made)]


def _sum(rng: random.Random) -> Made:
    one, other = rng.randint(2, 99), rng.randint(2, 99)
    return f"{one} + {other} =", f" {one + other}"


def _copy(rng: random.Random) -> Made:
    line = sentence(rng)
    return f"First: {line}\nAgain:", f" {line}"


def _pick(rng: random.Random) -> Made:
    words = rng.sample((*THINGS, *PLACES), len(LETTERS))
    right = rng.randrange(len(LETTERS))
    listed = "".join(f"{letter.strip()}. {word}\n" for letter, word in zip(LETTERS, words, strict=True))
    return f"{listed}Which one is {words[right]}?", LETTERS[right]
