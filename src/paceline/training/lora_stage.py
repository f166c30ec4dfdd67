"""The stage that trains the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paceline.training.data import Example
from paceline.training.lora import LoraProgress, LoraTraining, save_adapter, use_bf16
from paceline.training.lora_model import load_base, with_lora
from paceline.training.report import Reporter
from paceline.training.run import Run
from paceline.training.workspace import Workspace, write_whole


def train_adapter(
    run: Run, work: Workspace, rows: Sequence[Example], held: Sequence[Example], reporter: Reporter
) -> dict[str, Any]:
    """Trains on ``rows`` and leaves PEFT's files in ``adapter/final`` of the work; what to tell of it."""
    done = work.read("adapter")
    reporter.stage("adapter", resumed=done is not None)
    if done is not None:
        return done
    settings = run.settings
    folder = work.stage("adapter")
    bf16 = use_bf16(settings.precision, run.device)
    base = load_base(run.source.path, run.device)
    model = with_lora(base, settings.lora, run.source.name, settings.seed)
    training = LoraTraining(base, model, rows, held, settings.lora, seed=settings.seed, bf16=bf16, folder=folder)
    tokens = sum(example.length for example in rows)
    epochs = settings.lora.chosen_epochs(len(rows))
    parameters = sum(p.numel() for p in training.parameters.values())
    reporter.say(
        f"{len(rows)} rows, {len(held)} held out; {parameters / 1e6:.1f} million weights; {epochs} epochs, "
        f"{len(training.batches)} steps of about {tokens * epochs // len(training.batches)} tokens, on {run.device} in "
        f"{'bfloat16' if bf16 else 'float32'}"
    )
    held_out = ""

    def told(report: LoraProgress) -> None:
        nonlocal held_out
        if report.held_out is not None:
            held_out = f", held-out {report.held_out:.3f}"
        reporter.progress(report.step, report.steps, f"loss {report.loss:.3f}{held_out}")

    fitted = training.run(told)
    write_whole(folder / "final", lambda partial: save_adapter(fitted.model, partial))
    return work.write(
        "adapter",
        {
            "rank": settings.lora.rank,
            "alpha": settings.lora.scale_alpha,
            "epochs": epochs,
            "steps": len(training.batches),
            "best_step": fitted.step,
            "held_out_loss": fitted.loss,
            "bf16": bf16,
            "history": fitted.history,
        },
    )
