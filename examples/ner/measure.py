"""Entity F1 and speed on dev.jsonl, with and without the adapter and speculation: the same text, in less time.

    python measure.py DEV ADAPTER [--model MODEL] [--rows 200] [--threads N]

An entity counts where text and type are right. Rounds of the variants take turns, so that a busy machine slows all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paceline import LLM, SamplingParams
from paceline.speculation.options import SpeculationOptions

OFF = SpeculationOptions(speculate="off")


@dataclass
class Variant:
    """One way to answer."""

    name: str
    adapted: bool
    speculation: SpeculationOptions
    answers: list[str] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    steps: int = 0


def entities_of(answer: str) -> Counter[tuple[str, str]]:
    """(type, text) of an answer; none of one that is not the JSON asked for."""
    try:
        found = json.loads(answer)
        return Counter((kind, text) for kind, texts in found.items() for text in texts)
    except (ValueError, TypeError, AttributeError):
        return Counter()


def f1(answers: list[str], expected: list[str]) -> float:
    """Micro-averaged over all entities."""
    right = given = wanted = 0
    for answer, reference in zip(answers, expected, strict=True):
        own, other = entities_of(answer), entities_of(reference)
        right, given, wanted = right + (own & other).total(), given + own.total(), wanted + other.total()
    return 2 * right / max(1, given + wanted)


def answer(variant: Variant, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """All rows, one at a time, as a single user would ask."""
    adapters = {"ner": str(options.adapter)} if variant.adapted else {}
    params = SamplingParams(temperature=0.0, max_tokens=160)
    with LLM(options.model, adapters=adapters, speculation=variant.speculation, threads=options.threads) as llm:
        for row in rows:
            prompt = llm.chat_prompt_ids(row["messages"][:-1])
            started, steps = time.perf_counter(), llm.stats.steps
            ((output,),) = [
                found.outputs for found in llm.generate([prompt], params, adapter="ner" if variant.adapted else None)
            ]
            variant.seconds += time.perf_counter() - started
            variant.tokens += len(output.token_ids)
            variant.steps += llm.stats.steps - steps
            variant.answers.append(output.text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dev", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--round", type=int, default=50, help="rows of a variant before the next one's turn")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with options.dev.open(encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line) for line in file][: options.rows]
    expected = [row["messages"][-1]["content"] for row in rows]
    variants = [
        Variant("base model, no speculation", False, OFF),
        Variant("adapter, no speculation", True, OFF),
        Variant("adapter, suffix drafts", True, SpeculationOptions(speculate=("suffix",))),
        Variant("adapter, all drafters with its speculator", True, SpeculationOptions()),
    ]
    for start in range(0, len(rows), options.round):
        for variant in variants:
            answer(variant, rows[start : start + options.round], options)
    print(f"{len(rows)} sentences, {options.threads or 'all'} threads, one request at a time")
    print("| variant | F1 | output tokens | tokens a step | tokens a second |")
    print("|---|---|---|---|---|")
    for v in variants:
        speed, length = v.tokens / v.seconds, v.tokens / v.steps
        print(f"| {v.name} | {f1(v.answers, expected):.3f} | {v.tokens} | {length:.2f} | {speed:.0f} |")
    same = variants[1].answers == variants[2].answers == variants[3].answers
    print("Adapter's answers are the same in all three." if same else "Answers DIFFER between the adapter's variants.")


if __name__ == "__main__":
    main()
