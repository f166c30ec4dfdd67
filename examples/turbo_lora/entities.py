"""Named-entity recognition: a sentence in, its entities as JSON with a list for each type out.

The data folder holds conllpp_train.txt.gz and conllpp_dev.txt (CrossWeigh, github.com/ZihanWangKi/CrossWeigh,
``data/``). The text is Reuters news for research use: keep it, and what is made of it, to yourself.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Hashable
from pathlib import Path

from paceline.bench.speculation.entities import KINDS, Sentence, sentences, text_of
from paceline.bench.speculation.entities import entities as entities_of

SYSTEM = "Extract the named entities as JSON."
WORDS = range(8, 61)  # shorter ones are headlines and tables of results


def answer(sentence: Sentence) -> str:
    """All types, the entities of each in the order of the text: an object that always has the same keys, as a program
    that reads it wants it, and as published fine-tunings on this data answer."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS.values()}
    for entity in entities_of(sentence):
        found[entity["type"]].append(entity["text"])
    return json.dumps(found, ensure_ascii=False)


def rows(data: Path, held_out: bool, count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` different sentences of the train or the dev file with their answers."""
    path = data / ("conllpp_dev.txt" if held_out else "conllpp_train.txt.gz")
    found = {text_of(sentence): answer(sentence) for sentence in sentences(path) if len(sentence) in WORDS}
    return [(text, found[text]) for text in random.Random(seed).sample(sorted(found), min(count, len(found)))]


def facts(answer: str) -> Counter[Hashable]:
    """(type, text) of each entity: both have to be right."""
    try:
        return Counter((kind, text) for kind, texts in json.loads(answer).items() for text in texts)
    except (ValueError, TypeError, AttributeError):
        return Counter()
