"""SPEED-Bench's qualitative categories, each from the sources of a data folder that have such prompts.

The table is ``SOURCES``; docs/benchmarks.md shows it. What a source asks (its instruction around a text) is ours where
the source itself has only texts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from paceline.bench.prompts import DataError
from paceline.bench.speculation.workloads import NAMED, Conversation, Load, by_template, rows

CATEGORIES = ("coding", "humanities", "math", "multilingual", "qa", "rag", "reasoning", "roleplay", "stem",
              "summarization", "writing")  # fmt: skip
MOST_CANDIDATES = 400  # a category; on two cores all categories are embedded in some minutes
MOST_CHARACTERS = 20_000  # of all that the user says, about 5000 tokens: a context of 8k has room for an answer
PERSONA_TURNS = 3

Keep = Callable[[Conversation], bool]


@dataclass(frozen=True, slots=True)
class Source:
    """Prompts of one category: those of ``file`` (in the data folder) that ``keep`` lets through. ``terms``: why they
    may only be measured with, where the source's licence is restricted or missing; they are named in the report."""

    category: str
    name: str
    file: str
    load: Load
    keep: Keep = lambda _: True
    terms: str = ""


def named(category: str, workload: str, keep: Keep = lambda _: True, terms: str = "") -> Source:
    """A source that is a set of ``--set``, too."""
    known = NAMED[workload]
    return Source(category, workload, known.file, known.load, keep, terms)


def mentions(words: str) -> Keep:
    """Whose first turn has a word of ``words`` (a regular expression, read at the beginning of words)."""
    pattern = re.compile(rf"\b(?:{words})", re.IGNORECASE)
    return lambda conversation: bool(pattern.search(conversation.turns[0]))


def is_of(*categories: str) -> Keep:
    """Whose own category in its source is one of these."""
    return lambda conversation: conversation.category in categories


def another_script(conversation: Conversation) -> bool:
    """Whether more than a fifth of the characters are beyond the Latin ones."""
    text = "".join(conversation.turns)
    return sum(ord(letter) > 0x2FF for letter in text) > 0.2 * len(text)


def both(one: Keep, other: Keep) -> Keep:
    return lambda conversation: one(conversation) and other(conversation)


def without(keep: Keep) -> Keep:
    return lambda conversation: not keep(conversation)


def by_topic(path: Path) -> list[Conversation]:
    """Rows of MT-Bench's layout, under their own topics."""
    return [Conversation(str(row["question_id"]), str(row["category"]), tuple(row["turns"])) for row in rows(path)]


def by_subcategory(path: Path) -> list[Conversation]:
    return [Conversation(str(row["uid"]), str(row["subcategory"]), (str(row["prompt"]),)) for row in rows(path)]


def by_personas(path: Path) -> list[Conversation]:
    """The model is to be the second person; the user says the first lines of the first one."""
    found = []
    for number, row in enumerate(rows(path)):
        lines = [line.partition(":")[2].strip() for line in row["conversation"].split("\n") if line[:7] == "User 1:"]
        task = (
            f"Play this person, and stay in the role:\n{row['user_2_personas']}\n\nI am somebody else:\n"
            f"{row['user_1_personas']}\n\nWe meet, and I say: {lines[0] if lines else 'Hello!'}"
        )
        found.append(Conversation(str(number), "", (task, *lines[1:PERSONA_TURNS])))
    return found


def code_in(language: str) -> Load:
    return by_template(f"Complete this function. Answer with the whole function.\n\n```{language}\n{{prompt}}\n```")


_WITH_CONTEXT = (
    "Read this text and answer the question below it in full sentences.\n\n{content}\n\nQuestion: {question}"
)
_SUMMARIZE = "Summarize the following text in one paragraph.\n\n{content}"
_HUMANITIES = mentions(
    "histor|philosoph|litera|ethic|moral|religio|cultur|politic|poe[mt]|novel|arts?\\b|artist|museum|wars?\\b|empire|"
    "centur|laws?\\b|legal|constitution|democra|societ|linguist|language|music|paint|theat|author|myth|ancient"
)
_ROLES = mentions(
    "role.?play|act as|pretend|imagine you are|you are (?:now )?(?:an?|my)\\b|in character|persona|play the"
)
_PUZZLES = mentions("puzzle|logic|riddle|deduc|reason|probab|game theory|paradox|chess")
_QUESTIONS = is_of("AR", "CC", "TS", "SC", "SA")
_NO_LICENCE = "no licence file"

_MT = "mt_bench/question.jsonl"
_ARENA = "arena_hard/arena-hard-v2.0.question.jsonl"
_BAMBOO = "bamboo/{}.jsonl.gz"

SOURCES: tuple[Source, ...] = (
    *(
        Source(category, "mt_bench", _MT, by_topic, is_of(category))
        for category in ("coding", "humanities", "math", "reasoning", "roleplay", "stem", "writing")
    ),
    named("coding", "human_eval"),
    *(
        Source("coding", f"human_eval {name}", f"human_eval/multilingual/humaneval-{name}.jsonl.gz", code_in(name))
        for name in ("cpp", "go", "java", "js", "rs", "ts")
    ),
    named("coding", "mbpp"),
    named("coding", "edit"),
    Source("coding", "arena_hard_v2", _ARENA, by_subcategory, is_of("coding")),
    named("humanities", "mt_bench_101", _HUMANITIES),
    named("math", "gsm8k"),
    named("math", "math500"),
    named("math", "math"),
    named("math", "aime24"),
    Source("math", "arena_hard_v2", _ARENA, by_subcategory, both(is_of("math"), without(another_script))),
    named("multilingual", "translation"),
    Source("multilingual", "arena_hard_v2", _ARENA, by_subcategory, another_script),
    named("multilingual", "writing_bench", another_script),
    *(
        named("multilingual", f"mmath_{language}", terms=_NO_LICENCE)
        for language in ("ar", "es", "fr", "ja", "ko", "pt", "th", "vi", "zh")
    ),
    named("qa", "qa"),
    named("qa", "mt_bench_101", both(_QUESTIONS, without(_HUMANITIES))),
    named("rag", "rag"),
    *(
        Source("rag", name, _BAMBOO.format(name), by_template(_WITH_CONTEXT))
        for name in ("paperqa_4k", "paperqa_16k", "meetingqa_4k")
    ),
    named("reasoning", "mt_bench_101", both(is_of("GR", "MR"), without(_HUMANITIES))),
    named("reasoning", "arena_hard", _PUZZLES),
    Source("roleplay", "synthetic_persona_chat", "synthetic_persona_chat/valid.jsonl.gz", by_personas),
    named("roleplay", "arena_hard", both(_ROLES, without(_PUZZLES))),
    Source("roleplay", "arena_hard_v2", _ARENA, by_subcategory, both(_ROLES, is_of("creative_writing"))),
    named("stem", "mmlu_stem"),
    named("summarization", "summarization"),
    *(
        Source("summarization", name, _BAMBOO.format(name), by_template(_SUMMARIZE))
        for name in ("meetingqa_4k", "meetingpred_4k", "reportsumsort_4k")
    ),
    named("writing", "writing_bench", without(another_script)),
    Source(
        "writing",
        "arena_hard_v2",
        _ARENA,
        by_subcategory,
        both(is_of("creative_writing"), both(without(_ROLES), without(another_script))),
    ),
    named("writing", "mt_bench_101", both(is_of("FR", "CR"), without(_HUMANITIES))),
)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a category's prompts are chosen from. ``missing``: sources that the folder lacks."""

    by_category: Mapping[str, list[Conversation]]
    missing: Sequence[str]


def read_candidates(data: Path, seed: int, sources: Sequence[Source] = SOURCES) -> Candidates:
    """Every category's conversations, at most ``MOST_CANDIDATES`` of them: the sources take turns to give one, each in
    an order drawn by ``seed``, so that small sources are not lost among large ones. A prompt that several sources have
    counts for the first.

    Raises ``DataError`` when a file does not have the layout that its source expects, or all are missing.
    """
    found: dict[str, list[list[Conversation]]] = {category: [] for category in CATEGORIES}
    missing = sorted({source.file for source in sources if not (data / source.file).is_file()})
    seen: set[tuple[str, ...]] = set()
    for source in sources:
        if source.file not in missing:
            those = list(_of(source, data / source.file, seen))
            random.Random(f"{seed} {source.category} {source.name}").shuffle(those)
            found[source.category].append(those)
    if not any(map(any, found.values())):
        raise DataError(f"{data} has none of the files that the qualitative split is built from ({missing[0]}, ...)")
    return Candidates({category: _in_turns(lists)[:MOST_CANDIDATES] for category, lists in found.items()}, missing)


def _in_turns(lists: Sequence[Sequence[Conversation]]) -> list[Conversation]:
    """One of each list after another, while there are any."""
    return [one for row in zip_longest(*lists) for one in row if one is not None]


def _of(source: Source, path: Path, seen: set[tuple[str, ...]]) -> Iterator[Conversation]:
    try:
        read: Sequence[Any] = source.load(path)
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} does not have the expected layout: {error!r}") from error
    for one in read:
        fits = sum(map(len, one.turns)) <= MOST_CHARACTERS and all(text.strip() for text in one.turns)
        if fits and one.turns not in seen and source.keep(one):
            seen.add(one.turns)
            yield replace(one, key=f"{source.category}/{source.name}:{one.key}", category=source.category)


def restricted(keys: Sequence[str], sources: Sequence[Source] = SOURCES) -> list[str]:
    """The sources with restricted terms that chosen prompts (their ``keys``) come from, with the reason."""
    used = {key.rpartition(":")[0] for key in keys}
    limited = [source for source in sources if source.terms and f"{source.category}/{source.name}" in used]
    return sorted({f"{source.name} ({source.terms})" for source in limited})
