"""Trains the base speculator on what ``collect.py`` has collected, for about ``--minutes`` of processor time.

    python examples/base_speculator/train.py OUT --minutes 120 [--threads 2]

Reads ``OUT/states``, writes ``OUT/run``. The first chunk is never trained on, it is what the run is judged by. Chunks
that are collected while it runs join about every ten minutes. It may be stopped at any time (``touch OUT/run/stop``, or
a signal) and started again: it goes on from its last checkpoint, with the minutes that it had left. Its learning rate
is constant until most of the time is over, or until ``touch OUT/run/end``, and then falls: the last 30% of the steps.
At the end it writes the float speculator to ``OUT/run/speculator``; ``finish.py`` does the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

import msgspec
import torch

from paceline.models.checkpoint import open_checkpoint
from paceline.models.families import model_spec
from paceline.models.sources import resolve_model
from paceline.speculation.drafters.turbo_format import SpeculatorConfig, read_speculator, write_speculator
from paceline.training.architecture import default_config, target_tables
from paceline.training.fit import CHECKPOINT, FitConfig, Progress, fit
from paceline.training.speculator import new_tensors
from paceline.training.states import StateSet, state_scale
from paceline.training.vocabulary import draft_vocabulary

NAME = "SmolLM2-135M-Instruct"
LAYERS = (2, 15, 29)
POSITIONS = 4
VOCABULARY = 4096
WINDOW = 256
ROUND = 600.0  # seconds after which chunks that have come join
FALL = 0.3  # of the steps
SETTINGS = FitConfig(
    steps=1_000_000, texts=6, anchors=48, learning_rate=5e-3, warm_up=100, decay=FALL, final_share=0.02,
    evaluate_every=100, evaluate_blocks=4096, patience=1_000_000, bf16=True,
)  # fmt: skip


class Run:
    """A training run in ``OUT/run``. ``clock.json`` keeps the processor seconds that it took (on a machine that is
    shared, hours say nothing) and the steps that it will have."""

    def __init__(self, out: Path, model: str, minutes: float) -> None:
        self.states, self.folder = out / "states", out / "run"
        self.path = resolve_model(model).path
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit = 60 * minutes * (1 - FALL)  # seconds until the learning rate falls
        clock = self.folder / "clock.json"
        kept = json.loads(clock.read_text()) if clock.exists() else {"seconds": 0.0, "steps": SETTINGS.steps}
        self.spent, self.steps = float(kept["seconds"]), int(kept["steps"])
        self.step, self.losses = 0, [0.0]
        self.started = time.process_time()
        self.ended = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal)

    def _signal(self, number: int, frame: FrameType | None) -> None:
        self.ended = True

    @property
    def seconds(self) -> float:
        return self.spent + time.process_time() - self.started

    def chunks(self) -> list[Path]:
        return sorted(path for path in self.states.iterdir() if path.name.isdigit())

    def start(self, states: StateSet) -> tuple[SpeculatorConfig, dict[str, torch.Tensor]]:
        """Configuration and first weights: kept, for the vocabulary must not change when chunks join."""
        folder = self.folder / "start"
        if not folder.exists():
            checkpoint = open_checkpoint(self.path)
            spec = model_spec(checkpoint.config)
            checkpoint.close()
            config = default_config(
                spec, NAME, layers=LAYERS, positions=POSITIONS, vocab_size=VOCABULARY, window=WINDOW
            )
            tables = target_tables(self.path)
            vocabulary = draft_vocabulary(states, VOCABULARY, spec.vocab_size)
            config = msgspec.structs.replace(config, target_norm=tuple(tables.final_norm[:16].tolist()))
            write_speculator(
                folder, config, new_tensors(config, vocabulary, state_scale(states), tables, SETTINGS.seed)
            )
        return read_speculator(folder)

    def go(self) -> None:
        embedding = target_tables(self.path).embedding
        for name in ("stop", "end"):
            (self.folder / name).unlink(missing_ok=True)
        while not self.ended:
            held, *rest = self.chunks()
            states, judged = StateSet(*rest, layers=LAYERS), StateSet(held, layers=LAYERS)
            config, tensors = self.start(states)
            settings = replace(SETTINGS, steps=self.steps)
            told = {
                "chunks": [path.name for path in rest], "texts": len(states),
                "output_tokens": int(states.output_counts().sum()), "threads": torch.get_num_threads(),
            }  # fmt: skip
            print(f"{told}", flush=True)
            until = time.monotonic() + ROUND
            fitted = fit(
                states, config, tensors, embedding, settings, folder=self.folder, held=judged,
                progress=self._progress, stop=lambda until=until: self._stop(until),  # type: ignore[misc]
            )  # fmt: skip
            self._keep_clock()
            if fitted.history and fitted.history[-1]["step"] >= self.steps:
                card = {**told, "processor_minutes": round(self.seconds / 60)}
                fitted.save(self.folder / "speculator", settings, card)
                print(f"done: {fitted.accepted:.3f} at step {fitted.step}", flush=True)
                return

    def _progress(self, report: Progress) -> None:
        self.step = report.step
        self.losses = [*self.losses[-99:], report.loss]
        if report.accepted is not None:
            hits = [round(share, 3) for share in report.hits or []]
            loss = sum(self.losses) / len(self.losses)
            self._keep_clock()
            print(
                f"step {report.step} of {self.steps}, {self.seconds / 60:.1f} processor min: loss {loss:.3f}, "
                f"accepted {report.accepted:.3f}, by position {hits}",
                flush=True,
            )

    def _keep_clock(self) -> None:
        (self.folder / "clock.json").write_text(json.dumps({"seconds": self.seconds, "steps": self.steps}))

    def _stop(self, until: float) -> bool:
        """Whether to end this round: for good, for chunks that came, or because the number of steps is known now."""
        falling = self.steps < SETTINGS.steps
        if not falling and self.step and (self.seconds > self.limit or (self.folder / "end").exists()):
            self.steps = math.ceil(self.step / (1 - FALL)) + 2  # the fall begins no earlier than here
            return True
        self.ended = self.ended or (self.folder / "stop").exists()
        return self.ended or (not falling and time.monotonic() > until)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = Run(args.out, args.model, args.minutes)
    if (run.folder / CHECKPOINT).exists():
        print(f"goes on after {run.seconds / 60:.1f} processor minutes", flush=True)
    run.go()


if __name__ == "__main__":
    main()
