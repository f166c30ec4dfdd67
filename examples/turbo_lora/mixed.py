"""Two adapters with their speculators and the base model in one batch, against each of them alone.

    python mixed.py ROWS_A ADAPTER_A ROWS_B ADAPTER_B [--requests 48] [--rounds 3] [--base-tokens 32] [--threads N]

ROWS are folders that prepare.py made; the base model gets the prompts of both. All requests of a run are there at once,
in an engine that has just started. A mixed run has a third of its requests from each of the three; it should take the
mean of what three runs of the same number take, each of them of one kind. The base model's answers end after
``--base-tokens``, about where the adapters' do: else they are four times as long and go on alone at the end, which says
nothing of mixing. Texts are compared with those of one request at a time without speculation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline import LLM, SamplingParams
from paceline.speculation.options import SpeculationOptions

Messages = list[dict[str, str]]
MAX_TOKENS = 96


@dataclass(frozen=True)
class Ask:
    """One request."""

    adapter: str | None
    messages: Messages
    max_tokens: int = MAX_TOKENS


@dataclass
class Run:
    """What came of some requests."""

    seconds: float
    tokens: list[int]
    texts: list[str]
    acceptance_length: float  # tokens of a step of a sequence


def run(llm: LLM, asks: list[Ask]) -> Run:
    prompts = [llm.chat_prompt_ids(ask.messages) for ask in asks]
    params = [SamplingParams(temperature=0.0, max_tokens=ask.max_tokens) for ask in asks]
    started = time.perf_counter()
    found = llm.generate(prompts, params, adapter=[ask.adapter for ask in asks])
    seconds = time.perf_counter() - started
    outputs = [each.outputs[0] for each in found]
    tokens = [len(output.token_ids) for output in outputs]
    length = sum(tokens) / max(1, sum(tokens) - llm.stats.accepted_tokens)
    return Run(seconds, tokens, [output.text for output in outputs], length)


def questions(folder: Path) -> list[Messages]:
    with (folder / "dev.jsonl").open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line)["messages"][:-1] for line in file]


def kinds(options: argparse.Namespace) -> dict[str, list[Ask]]:
    """``--requests`` of each kind."""
    a, b = questions(options.rows_a), questions(options.rows_b)
    count = options.requests
    both = [messages for pair in zip(a[count:], b[count:], strict=False) for messages in pair]
    found = {
        "adapter a": [Ask("a", messages) for messages in a[:count]],
        "adapter b": [Ask("b", messages) for messages in b[:count]],
        "base": [Ask(None, messages, options.base_tokens) for messages in both[:count]],
    }
    for name, asks in found.items():
        if len(asks) < count:
            raise SystemExit(f"{name}: the rows are enough for {len(asks)} requests, not for {count}")
    return found


def expected_seconds(parts: list[Run], mixed: Run) -> float:
    """Of the mixture (requests of the parts in turn), if each of its tokens took what it takes in its part alone."""
    return sum(sum(mixed.tokens[i :: len(parts)]) * part.seconds / sum(part.tokens) for i, part in enumerate(parts))


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return {"adapters": {"a": str(options.adapter_a), "b": str(options.adapter_b)}, "threads": options.threads}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("rows_a", "adapter_a", "rows_b", "adapter_b"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base-tokens", type=int, default=32, help="most tokens of an answer of the base model")
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    runs = kinds(options)
    part = options.requests // len(runs)
    mixture = [ask for asks in zip(*(asks[:part] for asks in runs.values()), strict=True) for ask in asks]
    ratios: list[float] = []
    results: dict[str, list[Run]] = {}
    for _ in range(options.rounds):
        for name, asks in {**runs, "mixed": mixture}.items():
            with LLM(options.model, **settings(options)) as llm:
                results.setdefault(name, []).append(run(llm, asks))
        mixed = results["mixed"][-1]
        ratios.append(expected_seconds([results[name][-1] for name in runs], mixed) / mixed.seconds)
    with LLM(options.model, speculation=SpeculationOptions(speculate="off"), **settings(options)) as llm:
        alone = [run(llm, [ask]).texts[0] for ask in mixture]
    print("| requests | output tokens | tokens a step | output tokens a second |")
    print("|---|---|---|---|")
    for name, found in results.items():
        tokens = sum(found[0].tokens)
        speed = tokens / statistics.median(one.seconds for one in found)
        print(f"| {name} | {tokens} | {found[0].acceptance_length:.2f} | {speed:.0f} |")
    print(
        f"Throughput of the mixture as a share of that of its parts alone: {', '.join(f'{one:.2f}' for one in ratios)}"
    )
    same = all(one.texts == alone for one in results["mixed"])
    print("Texts are those of each alone without speculation." if same else "Texts DIFFER from each alone.")


if __name__ == "__main__":
    main()
