"""What the suffix drafter is worth: saved answers through the real drafter, calibration and admission, at the cost
curves of two machines. Prints tokens a second of simulated steps (geometric mean over the sets).

    PYTHONPATH=src python tests/speculation/suffix_replay.py texts.jsonl          # replays, some seconds
    PYTHONPATH=src python tests/speculation/suffix_replay.py texts.jsonl --answer ../shared/data   # first, minutes
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paceline.sampling.grammar import GrammarMatcher
from paceline.sampling.params import SamplingParams
from paceline.sampling.speculative import MAX_DRAFT
from paceline.speculation.controller import Controller
from paceline.speculation.costs import StepCosts
from paceline.speculation.decision import StepShape
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress
from paceline.speculation.drafters.suffix import SuffixDrafter
from paceline.speculation.options import SpeculationOptions
from paceline.speculation.verify import match_sampled

#: SmolLM2-135M on two quiet CPU cores, and an 8B model on an H200.
MACHINES = {
    "cpu": (
        [(1, 3.42e-3), (2, 3.45e-3), (4, 4.02e-3), (8, 5.25e-3), (9, 7.17e-3), (16, 12e-3), (32, 22e-3)],
        (1, 4, 8),
    ),
    "h200": ([(1, 3.3e-3), (150, 3.3e-3), (512, 11.3e-3)], (1, 8, 32)),
}
SETS = ("chat", "edit", "summarization", "rag", "ner")
Text = tuple[list[int], list[int]]  # prompt, output


@dataclass
class Saved:
    """A sequence whose output is known from the start; ``length`` of its tokens are."""

    key: tuple[str, int]
    tokens: np.ndarray
    prompt_length: int
    length: int
    index: int = 0
    adapter: str | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    grammar: GrammarMatcher | None = None

    @property
    def token_ids(self) -> np.ndarray:
        return self.tokens[: self.length]

    def take(self, draft: Draft | None) -> list[int]:
        """The tokens of a step that verifies ``draft``."""
        rest = self.tokens[self.length :].tolist()
        count = 1 if draft is None else len(match_saved(draft, rest))
        self.length += min(count, len(rest))
        return rest[:count]


def match_saved(draft: Draft, rest: Seq[int]) -> list[int]:
    """What the target samples behind a node depends on its depth alone: the saved text, and nothing behind its end."""
    depths = [0]
    for i in range(len(draft)):
        depths.append(depths[1 + (i - 1 if draft.parents is None else draft.parents[i])] + 1)
    return match_sampled([rest[depth] if depth < len(rest) else -1 for depth in depths], draft).token_ids


@dataclass
class Replay:
    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    trees: int = 0


def replay(texts: Seq[Text], streams: int, points: Seq[tuple[int, float]], drafter: SuffixDrafter) -> Replay:
    """Texts one after another, ``streams`` at a time, each decoded from its second token on."""
    truth, controller, result = StepCosts(points), Controller([drafter], StepCosts(points)), Replay()
    waiting, running = list(enumerate(texts))[::-1], list[Saved]()
    while waiting or running:
        while waiting and len(running) < streams:
            number, (prompt, output) = waiting.pop()
            sequence = Saved((f"r{number}", 0), np.array(prompt + output, dtype=np.int32), len(prompt), len(prompt))
            for _ in range(1 + len(prompt) // 2048):
                controller.observe([Progress(sequence, [])], StepShape(1, 1, 512), 2, 1e-3)
            sequence.length += 1
            running.append(sequence)
        running = step(running, controller, truth, result)
    return result


def step(running: list[Saved], controller: Controller, truth: StepCosts, result: Replay) -> list[Saved]:
    """Those that go on after it."""
    shape = StepShape(len(running), 0, 512)
    limits = {s.key: min(MAX_DRAFT, len(s.tokens) - s.length - 1) for s in running}
    able = [s for s in running if limits[s.key] > 0]
    decided = controller.choose(able, [limits[s.key] for s in able], shape).drafts if able else []
    drafts = dict(zip((s.key for s in able), decided, strict=True))
    rows, progress = len(running), []
    for s in running:
        draft = drafts.get(s.key)
        rows += 0 if draft is None else len(draft)
        result.trees += draft is not None and draft.parents is not None
        taken = s.take(draft)
        result.tokens += len(taken)
        progress.append(Progress(s, taken, 0 if draft is None else len(draft)))
    result.seconds += truth.seconds(rows)
    result.steps += 1
    controller.observe(progress, shape, rows, truth.seconds(rows))
    for s in running:
        if s.length == len(s.tokens):
            controller.forget(s)
    return [s for s in running if s.length < len(s.tokens)]


def answer(path: Path, data: Path) -> None:
    """32 prompts of each set, greedy and at temperature 0.8."""
    from paceline.bench.speculation.closed_loop import Prompter
    from paceline.bench.speculation.workloads import NAMED, load_workload
    from paceline.llm import LLM

    with LLM() as llm, path.open("w") as file:
        prompter = Prompter(llm.tokenizer)
        for name in SETS:
            prompts = [prompter.ids(c.opening()) for c in load_workload(NAMED[name], data)[:32]]
            prompts = [prompt for prompt in prompts if len(prompt) <= 1800]
            for temperature in (0.0, 0.8):
                wishes = [SamplingParams(temperature=temperature, seed=i, max_tokens=256) for i in range(len(prompts))]
                for prompt, output in zip(prompts, llm.generate(prompts, wishes), strict=True):
                    row = {"set": name, "temperature": temperature, "prompt": prompt}
                    file.write(json.dumps(row | {"output": list(output.outputs[0].token_ids)}) + "\n")


def load(path: Path) -> dict[tuple[str, float], list[Text]]:
    groups: dict[tuple[str, float], list[Text]] = defaultdict(list)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if len(row["output"]) > 1:
            groups[row["set"], row["temperature"]].append((row["prompt"], row["output"]))
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument(
        "--answer", type=Path, metavar="DATA", help="write the texts first, from prompts of this folder"
    )
    arguments = parser.parse_args()
    if arguments.answer:
        answer(arguments.texts, arguments.answer)
    groups = load(arguments.texts)
    for machine, (points, counts) in MACHINES.items():
        for streams in counts:
            found = [replay(texts, streams, points, SuffixDrafter(SpeculationOptions())) for texts in groups.values()]
            mean = math.exp(sum(math.log(r.tokens / r.seconds) for r in found) / len(found))
            trees = sum(r.trees for r in found) / sum(r.steps for r in found)
            print(f"{machine:5} {streams:2} streams: {mean:7.1f} tokens/s, {trees:.2f} trees a step", flush=True)


if __name__ == "__main__":
    main()
