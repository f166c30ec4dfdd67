"""Ships the trained speculator: weights as q8 codes into the package, measured, with a model card of the figures.

    python examples/base_speculator/finish.py [OUT] --data DATA [--prompts 8] [--max-tokens 128] [--threads 2]
        [--folder src/paceline/speculators/smollm2-135m-instruct]

Takes ``OUT/run/speculator``; where the run has not ended, the best weights of its checkpoint, which the card then says.
Without ``OUT`` it measures the weights that are in the folder, and writes their card anew.
Measured on ``DATA/spec_bench/question.jsonl``, of which nothing was trained on, greedy and one stream: the speculator
alone with whole drafts; and one after the other for each prompt no speculation, all drafters but the speculator, and
all drafters as the controller decides. ``DATA/mt_bench`` is the part of it whose categories are the eight topics.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from paceline import LLM, SamplingParams
from paceline.backends.registry import get_backend
from paceline.engine.factory import eos_ids
from paceline.models.loading import load_model
from paceline.models.sources import resolve_model
from paceline.speculation.drafters.turbo_format import WEIGHTS, read_speculator, write_speculator
from paceline.speculation.drafters.turbo_loading import open_turbo_drafter
from paceline.speculation.options import OFF, SpeculationOptions
from paceline.training.evaluate import acceptance
from paceline.training.fit import CHECKPOINT

MOST_BYTES = 12_000_000  # of what is shipped
MOST_PROMPT_CHARACTERS = 6000
TASKS = ("translation", "summarization", "qa", "math_reasoning", "rag")  # all else in Spec-Bench is MT-bench
OTHERS = ("grammar", "suffix")
MODES = ("none", "others", "all")


@dataclass(slots=True)
class Row:
    """Of one category. ``length`` and ``first``: the speculator alone; the dicts by mode: totals of all prompts."""

    prompts: int
    length: float = 0.0
    positions: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    steps: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def speedup(self, mode: str) -> float:
        rate = {name: self.tokens[name] / self.seconds[name] for name in (mode, "none")}
        return rate[mode] / rate["none"]

    def tokens_a_step(self, mode: str) -> float:
        return self.tokens[mode] / max(1, self.steps[mode])


def export(out: Path, folder: Path) -> None:
    """Writes the q8 folder. Raises ``SystemExit`` if they are too large."""
    ended = (out / "run" / "speculator").is_dir()
    config, tensors = read_speculator(out / "run" / ("speculator" if ended else "start"))
    if not ended:
        content = torch.load(out / "run" / CHECKPOINT, map_location="cpu", weights_only=True)
        tensors, state = content["best"], content["state"]
        card = {"intermediate": True, "steps": state["best_step"], "held_out_accepted": round(state["best"], 4)}
        config = msgspec.structs.replace(config, card=card)
    shutil.rmtree(folder, ignore_errors=True)
    write_speculator(folder, config, tensors, "q8")
    size = (folder / WEIGHTS).stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{folder / WEIGHTS} has {size} bytes, at most {MOST_BYTES} may be shipped")


def origin(card: Mapping[str, Any]) -> str:
    """What the weights are."""
    if card.get("intermediate"):
        return f"an intermediate state of a training that has not ended (step {card['steps']})"
    return f"the end of the training ({card.get('processor_minutes')} processor minutes)"


def questions(data: Path, count: int) -> dict[str, list[str]]:
    """The first turns of up to ``count`` prompts of each task; MT-bench: of all its topics in turn."""
    found: dict[str, list[str]] = defaultdict(list)
    topics: dict[str, list[str]] = defaultdict(list)
    for line in (data / "spec_bench" / "question.jsonl").read_text(encoding="utf-8").split("\n"):
        if not line.strip():
            continue
        row = json.loads(line)
        if len(row["turns"][0]) <= MOST_PROMPT_CHARACTERS:
            (found if row["category"] in TASKS else topics)[row["category"]].append(row["turns"][0])
    per_topic = max(1, -(-2 * count // max(1, len(topics))))  # twice as many: chat is what most requests are
    chosen = {"mt_bench": [text for _, texts in sorted(topics.items()) for text in texts[:per_topic]]}
    return chosen | {task: found[task][:count] for task in TASKS if found[task]}


def measure(
    folder: Path, asked: Mapping[str, list[str]], max_tokens: int, threads: int
) -> tuple[dict[str, Row], float]:
    """A row a category, and the share of a step of one row that a call of the drafter takes."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, seed=1)
    options = {
        "none": SpeculationOptions(speculate=OFF),
        "others": SpeculationOptions(speculate=OTHERS),
        "all": SpeculationOptions(speculator=str(folder)),
    }
    engines = {mode: LLM(speculation=chosen, threads=threads, max_running=1) for mode, chosen in options.items()}
    rows = {category: Row(len(texts)) for category, texts in asked.items()}
    prompts = {
        c: [engines["none"].chat_prompt_ids([{"role": "user", "content": t}]) for t in ts] for c, ts in asked.items()
    }
    for number in range(max(map(len, prompts.values()))):
        for category, ids in prompts.items():
            for mode in MODES if number < len(ids) else ():
                _answer(engines[mode], ids[number], params, rows[category], mode)
    for engine in engines.values():
        engine.close()
    return rows, _alone(folder, prompts, params, rows, threads)


def _answer(llm: LLM, prompt: list[int], params: SamplingParams, row: Row, mode: str) -> None:
    """One prompt; the time is that behind its first token, for speculation does nothing before it."""
    started, tokens, steps = time.perf_counter(), llm.stats.generation_tokens, llm.stats.steps  # stats go on counting
    first = started
    for piece in llm.generate_stream(prompt, params):
        if first == started and piece.token_ids:
            first, steps = time.perf_counter(), llm.stats.steps
    row.seconds[mode] += time.perf_counter() - first
    row.tokens[mode] += llm.stats.generation_tokens - tokens - 1
    row.steps[mode] += llm.stats.steps - steps


def _alone(
    folder: Path, prompts: Mapping[str, list[list[int]]], params: SamplingParams, rows: dict[str, Row], threads: int
) -> float:
    path = resolve_model("").path
    backend = get_backend("cpu", threads=threads)
    model = load_model(path, backend)
    drafting = computing = 0.0
    for category, ids in prompts.items():
        drafter, _ = open_turbo_drafter(folder, model, backend, target_name=path.name, max_sequences=1, max_tokens=4096)
        found = acceptance(
            model, backend, drafter, ids, params, length=drafter.longest, eos_ids=eos_ids(path, model.config)
        )
        rows[category].length, rows[category].positions = found.length, found.accepted_per_position
        drafting, computing = drafting + found.drafter_seconds, computing + found.step_seconds
        print(f"{category}: {found}", flush=True)
    return drafting / computing


CARD = """\
# Speculator for SmolLM2-135M-Instruct

One decoder layer that reads hidden states of the model's layers {layers} and proposes {positions} tokens in one pass
(docs/decisions/0010). Trained by the scripts in `examples/base_speculator` on the model's own answers: these weights
are {what}. {megabytes:.1f} MB, matrices of 8-bit codes.

- **Data**: {texts} of the model's answers, at most 256 tokens each, to prompts of these sets; nothing else was
  trained on, and no text of them is part of the package. {sets}
- **Left out**: every prompt that shares ten words in a row with Spec-Bench, MT-bench, EditEval or the GSM8K test set.
- **Not for** texts outside of English and program code; it knows {vocabulary} tokens and proposes no others.

## What it is worth

`{command}`, greedy, one stream, {threads} threads.
*Alone*: tokens a step with every draft, a tree of up to 16 tokens, verified whole; and the shares of drafts of which
one token, and of which two, were accepted. *All*: all drafters as the controller decides, against no speculation;
*without it*: all but this one. Behind the first token of each answer, prompt by prompt in turn on one machine.
Spec-Bench prompts; none of them was trained on.

| category | prompts | alone | 1st | 2nd | all: tokens a step | all: speed | without it: speed |
|---|---|---|---|---|---|---|---|
{table}

A call of the drafter took {share:.0%} of the time of the model's step with these drafts (mean over categories).
"""


def write_card(folder: Path, rows: Mapping[str, Row], share: float, command: str, args: argparse.Namespace) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from prepare import SETS

    config, _ = read_speculator(folder)
    licences = sorted({(chosen.name, chosen.licence) for chosen in SETS})
    lines = []
    for category, row in rows.items():
        first, second, *_ = [*row.positions, 0.0, 0.0]
        lines.append(
            f"| {category} | {row.prompts} | {row.length:.2f} | {first:.2f} | {second:.2f} | "
            f"{row.tokens_a_step('all'):.2f} | {row.speedup('all'):.2f} x | {row.speedup('others'):.2f} x |"
        )
    texts = f"{config.card['texts']} ({config.card['output_tokens']} tokens)" if "texts" in config.card else "some"
    card = CARD.format(
        layers=", ".join(map(str, config.layers)), positions=config.positions, what=origin(config.card), texts=texts,
        megabytes=(folder / WEIGHTS).stat().st_size / 1e6, vocabulary=config.vocab_size, share=share, command=command,
        sets="Sets: " + ", ".join(f"{name} ({licence})" for name, licence in licences) + ".",
        threads=args.threads, max_tokens=args.max_tokens, table="\n".join(lines),
    )  # fmt: skip
    (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("src/paceline/speculators/smollm2-135m-instruct"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    args: Any = parser.parse_args()
    if args.out is not None:
        export(args.out, args.folder)
    rows, share = measure(args.folder, questions(args.data, args.prompts), args.max_tokens, args.threads)
    command = f"finish.py --data DATA --prompts {args.prompts} --max-tokens {args.max_tokens}"
    write_card(args.folder, rows, share, command, args)
    print((args.folder / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
