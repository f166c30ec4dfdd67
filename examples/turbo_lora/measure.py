"""F1 of the facts in the answers and speed, with and without the adapter and speculation: the same text, in less time.

    python measure.py entities|matching ROWS ADAPTER [--model MODEL] [--rows 200] [--threads N]

ROWS is the folder that prepare.py made. The base model is shown some rows of the training data as examples in its
prompt, the adapter none. Rounds of the variants take turns, so that a busy machine slows all.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tasks import TASKS, f1

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


def few_shot(path: Path, count: int) -> list[dict[str, str]]:
    """Rows of the training data as a conversation that shows the base model what is asked: those with most to say of
    the first hundred."""
    with path.open(encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line)["messages"][1:] for line in islice(file, 100)]
    rows.sort(key=lambda row: -len(row[-1]["content"]))
    return [message for row in rows[:count] for message in row]


def answer(variant: Variant, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """All rows, one at a time, as a single user would ask."""
    adapters = {"task": str(options.adapter)} if variant.adapted else {}
    examples = [] if variant.adapted else few_shot(options.folder / "train.jsonl", options.examples)
    params = SamplingParams(temperature=0.0, max_tokens=160)
    with LLM(options.model, adapters=adapters, speculation=variant.speculation, threads=options.threads) as llm:
        for row in rows:
            system, *asked = row["messages"][:-1]
            prompt = llm.chat_prompt_ids([system, *examples, *asked])
            started, steps = time.perf_counter(), llm.stats.steps
            (found,) = llm.generate([prompt], params, adapter="task" if variant.adapted else None)
            output = found.outputs[0]
            variant.seconds += time.perf_counter() - started
            variant.tokens += len(output.token_ids)
            variant.steps += llm.stats.steps - steps
            variant.answers.append(output.text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--examples", type=int, default=5, help="in the base model's prompt")
    parser.add_argument("--round", type=int, default=50, help="rows of a variant before the next one's turn")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with (options.folder / "dev.jsonl").open(encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line) for line in file][: options.rows]
    expected = [row["messages"][-1]["content"] for row in rows]
    variants = [
        Variant(f"base model, {options.examples} examples", False, OFF),
        Variant("adapter, no speculation", True, OFF),
        Variant("adapter, suffix drafts", True, SpeculationOptions(speculate=("suffix",))),
        Variant("adapter, all drafters with its speculator", True, SpeculationOptions()),
    ]
    for start in range(0, len(rows), options.round):
        for variant in variants:
            answer(variant, rows[start : start + options.round], options)
    print(f"{len(rows)} rows, {options.threads or 'all'} threads, one request at a time")
    print("| variant | F1 | output tokens | tokens a step | tokens a second |")
    print("|---|---|---|---|---|")
    for v in variants:
        quality, speed, length = f1(TASKS[options.task], v.answers, expected), v.tokens / v.seconds, v.tokens / v.steps
        print(f"| {v.name} | {quality:.3f} | {v.tokens} | {length:.2f} | {speed:.0f} |")
    same = variants[1].answers == variants[2].answers == variants[3].answers
    print("Adapter's answers are the same in all three." if same else "Answers DIFFER between the adapter's variants.")


if __name__ == "__main__":
    main()
