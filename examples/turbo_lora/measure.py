"""F1 of the facts in the answers and speed, with and without the adapter and speculation: the same text, in less time.

    python measure.py entities|matching ROWS ADAPTER [--model MODEL] [--rows 200] [--threads N]

ROWS is the folder that prepare.py made. The base model is shown some rows of the training data as examples in its
prompt, the adapter none. Rounds of the variants take turns, so that a busy machine slows all; each has an engine of its
own that stays, as a server would. A row's first token comes with its prompt: acceptance length is that of all others.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
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
    llm: LLM
    adapted: bool
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
    llm = variant.llm
    examples = [] if variant.adapted else few_shot(options.folder / "train.jsonl", options.examples)
    params = SamplingParams(temperature=0.0, max_tokens=160)
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


def variants(options: argparse.Namespace, engines: ExitStack) -> list[Variant]:
    def variant(name: str, adapted: bool, speculation: SpeculationOptions) -> Variant:
        adapters = {"task": str(options.adapter)} if adapted else {}
        llm = LLM(options.model, adapters=adapters, speculation=speculation, threads=options.threads)
        return Variant(name, engines.enter_context(llm), adapted)

    return [
        variant(f"base model, {options.examples} examples", False, OFF),
        variant("adapter, no speculation", True, OFF),
        variant("adapter, suffix drafts", True, SpeculationOptions(speculate=("suffix",))),
        variant("adapter, all drafters with its speculator", True, SpeculationOptions()),
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--examples", type=int, default=5, help="in the base model's prompt")
    parser.add_argument("--round", type=int, default=20, help="rows of a variant before the next one's turn")
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    with (options.folder / "dev.jsonl").open(encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line) for line in file][: options.rows]
    expected = [row["messages"][-1]["content"] for row in rows]
    with ExitStack() as engines:
        found = variants(options, engines)
        for start in range(0, len(rows), options.round):
            for variant in found:
                answer(variant, rows[start : start + options.round], options)
    print(f"{len(rows)} rows, {options.threads or 'all'} threads, one request at a time")
    print("| variant | F1 | output tokens | acceptance length | tokens a second |")
    print("|---|---|---|---|---|")
    for v in found:
        quality, length = f1(TASKS[options.task], v.answers, expected), (v.tokens - len(rows)) / (v.steps - len(rows))
        print(f"| {v.name} | {quality:.3f} | {v.tokens} | {length:.2f} | {v.tokens / v.seconds:.0f} |")
    same = found[1].answers == found[2].answers == found[3].answers
    print("Adapter's answers are the same in all three." if same else "Answers DIFFER between the adapter's variants.")


if __name__ == "__main__":
    main()
