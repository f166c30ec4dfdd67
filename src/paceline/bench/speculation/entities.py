"""Named-entity extraction from CoNLL files as a conversation: a sentence, JSON, after a few examples of both."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

from paceline.bench.prompts import DataError

TASK = "List the named entities (person, organization, location, miscellaneous) of each sentence as JSON."
KINDS = {"PER": "person", "ORG": "organization", "LOC": "location", "MISC": "miscellaneous"}
EXAMPLES = 5
EXAMPLE_SEED = 20
EXAMPLE_WORDS = 25  # at most
WORDS = range(8, 41)  # shorter ones are headlines and tables of results

Sentence = list[tuple[str, str]]  # (word, tag); tags are O, B-KIND and I-KIND


def sentences(path: Path) -> Iterator[Sentence]:
    """The sentences of a file with ``token POS chunk NER`` a line and a blank line behind each sentence."""
    opener = gzip.open if path.suffix == ".gz" else open
    sentence: Sentence = []
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            fields = line.split()
            if fields and fields[0] != "-DOCSTART-":
                sentence.append((fields[0], fields[-1]))
            elif sentence:
                yield sentence
                sentence = []
    if sentence:
        yield sentence


def entities(sentence: Sentence) -> list[dict[str, str]]:
    """The entities in the order of the text, as ``{"text": ..., "type": ...}``."""
    found: list[dict[str, str]] = []
    last = "O"
    for word, tag in sentence:
        prefix, _, kind = tag.partition("-")
        if kind in KINDS:
            if prefix == "B" or kind != last.partition("-")[2]:
                found.append({"text": word, "type": KINDS[kind]})
            else:
                found[-1]["text"] += f" {word}"
        last = tag
    return found


def entity_questions(path: Path) -> list[str]:
    """The file's sentences that have entities and are neither headlines nor very long."""
    return [text_of(sentence) for sentence in _useful(path)]


def entity_examples(path: Path) -> list[tuple[str, str]]:
    """Sentences with their entities as JSON: always the same ones, the first with the task before it. Short ones, most
    of them with several entities. Raises ``DataError`` when the file is missing or too small."""
    if not path.is_file():
        raise DataError(f"{path} is missing: the examples before each question come from it")
    short = [sentence for sentence in _useful(path) if len(sentence) <= EXAMPLE_WORDS]
    if len(short) < EXAMPLES:
        raise DataError(f"{path} has fewer than {EXAMPLES} sentences that can be examples")
    chosen = random.Random(EXAMPLE_SEED).sample(short, EXAMPLES)
    pairs = [(text_of(sentence), json.dumps(entities(sentence), ensure_ascii=False)) for sentence in chosen]
    return [(f"{TASK}\n\n{pairs[0][0]}", pairs[0][1]), *pairs[1:]]


def text_of(sentence: Sentence) -> str:
    return " ".join(word for word, _ in sentence)


def _useful(path: Path) -> Iterator[Sentence]:
    return (sentence for sentence in sentences(path) if len(sentence) in WORDS and entities(sentence))
