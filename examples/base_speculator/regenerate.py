"""The target's answers to the prompts, chunk by chunk: may be stopped at any time and started again.

    python examples/base_speculator/regenerate.py OUT/prompts.jsonl OUT/texts [--max-running 64]

Every fifth chunk is sampled at temperature 0.7, the rest is greedy. Answers end at 256 tokens, or where they begin to
repeat themselves.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

from paceline import LLM, SamplingParams
from paceline.training.regenerate import Text, regenerate, write_texts

CHUNK = 128  # prompts
MAX_TOKENS = 256
SEED = 1


def loop_start(token_ids: list[int], repeats: int = 4, least: int = 16) -> int:
    """Where a loop that lasts to the end of the text begins for the second time: a period that comes ``repeats`` times
    in a row and covers ``least`` tokens; the length of the text where there is none."""
    count = len(token_ids)
    for period in range(1, count // repeats + 1):
        at = count - period
        while at > 0 and token_ids[at - 1] == token_ids[at - 1 + period]:
            at -= 1
        if count - at >= max(repeats * period, least):
            return at + period
    return count


def without_loops(texts: Iterator[Text]) -> Iterator[Text]:
    for text in texts:
        yield Text(text.prompt_ids, text.output_ids[: loop_start(text.output_ids)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--max-running", type=int, default=64)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    llm = LLM(args.model, max_running=args.max_running, threads=args.threads)
    print(llm.info, flush=True)
    rows = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").split("\n") if line]
    prompts = [llm.chat_prompt_ids(row["messages"]) for row in rows]
    for number in range((len(prompts) + CHUNK - 1) // CHUNK):
        path = args.out / f"{number:04}.jsonl"
        if path.exists():
            continue
        started, before = time.time(), llm.stats.generation_tokens
        params = SamplingParams(temperature=0.7 if number % 5 == 4 else 0.0, max_tokens=MAX_TOKENS, seed=SEED + number)
        chunk = prompts[number * CHUNK : (number + 1) * CHUNK]
        count = write_texts(path, without_loops(regenerate(llm, chunk, params)))
        seconds, tokens = time.time() - started, llm.stats.generation_tokens - before
        print(
            f"{path.name}: {count} texts, {tokens} tokens, {seconds:.0f} s, {tokens / seconds:.0f} a second", flush=True
        )


if __name__ == "__main__":
    main()
