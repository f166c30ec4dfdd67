"""Sentences of CoNLL files as chat rows for ``paceline train``: a sentence in, its entities as compact JSON out.

    python prepare.py DATA OUTPUT [--rows 3000]

DATA holds conllpp_train.txt.gz and conllpp_dev.txt (CrossWeigh, github.com/ZihanWangKi/CrossWeigh, ``data/``); OUTPUT
gets train.jsonl and dev.jsonl. The text is Reuters news for research use: keep it, and what is made of it, to yourself.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path

from paceline.bench.speculation.entities import Sentence, entities, sentences, text_of

SYSTEM = "Extract the named entities as JSON."
WORDS = range(8, 61)  # shorter ones are headlines and tables of results


def answer(sentence: Sentence) -> str:
    """The entities by type, types and entities in the order of the text."""
    found: dict[str, list[str]] = {}
    for entity in entities(sentence):
        found.setdefault(entity["type"], []).append(entity["text"])
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def messages(text: str) -> list[dict[str, str]]:
    """What the model is asked."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def rows(path: Path, count: int, seed: int) -> Iterable[str]:
    """``count`` different sentences of the file as rows, in random order."""
    found = {text_of(sentence): answer(sentence) for sentence in sentences(path) if len(sentence) in WORDS}
    chosen = random.Random(seed).sample(sorted(found), min(count, len(found)))
    for text in chosen:
        row = {"messages": [*messages(text), {"role": "assistant", "content": found[text]}]}
        yield json.dumps(row, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--dev-rows", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for source, name, count in (
        ("conllpp_train.txt.gz", "train", options.rows),
        ("conllpp_dev.txt", "dev", options.dev_rows),
    ):
        lines = list(rows(options.data / source, count, options.seed))
        (options.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{options.output / name}.jsonl: {len(lines)} rows")


if __name__ == "__main__":
    main()
