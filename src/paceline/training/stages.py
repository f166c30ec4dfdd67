"""A training from data to a folder that is served, in stages. A stage that is complete is not repeated, one that was
interrupted goes on from its last checkpoint, and the folder appears when all of them are through.

    adapter -> answers (of the model, with the adapter) -> states -> speculator -> measurement
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.adapters.peft import WEIGHTS_FILE
from paceline.adapters.peft_config import CONFIG_FILE
from paceline.training.card import card, command
from paceline.training.data import split_examples
from paceline.training.lora_stage import train_adapter
from paceline.training.measure import answer_figures, draft_figures
from paceline.training.report import Reporter
from paceline.training.run import Run, prepare
from paceline.training.settings import TrainSettings
from paceline.training.speculator_stage import collect_states, regenerate_answers, train_speculator
from paceline.training.workspace import REPORT, Workspace, told, write_json

FORMAT = 1  # of ``training.json``
SPECULATOR = "speculator"  # the subfolder


def train(settings: TrainSettings, reporter: Reporter | None = None) -> dict[str, Any]:
    """Trains what ``settings`` ask for; gives what ``training.json`` in the output folder holds.

    The same call goes on where an earlier one was interrupted, and does nothing when the output is its result already.
    Torch's number of threads is that of the settings afterwards. Raises ``InvalidRequestError`` for settings, data and
    folders that cannot be used, before anything is trained, and other ``PacelineError``s with the reason; work is kept.
    """
    reporter = reporter or Reporter()
    settings.check()
    run = prepare(settings)
    work = Workspace(settings.output, run.identity, settings.overwrite)
    if work.complete:
        reporter.say(f"{settings.output} is the result of this training already; nothing to do")
        return work.output_report()
    with work.open() as resumed, told(work.folder):
        if resumed:
            reporter.say(f"going on with the work in {work.folder}")
        try:
            report = _stages(run, work, reporter)
        finally:
            reporter.close()
        work.finish()
    reporter.figures(report)
    return report


def _stages(run: Run, work: Workspace, reporter: Reporter) -> dict[str, Any]:
    settings = run.settings
    started = time.monotonic()
    rows, held = split_examples(run.examples, settings.held_out, settings.seed)
    adapter, trained = settings.adapter, None
    if settings.trains_adapter:
        trained = train_adapter(run, work, rows, held, reporter)
        adapter = work.folder / "adapter" / "final"
    speculator = fitted = None
    if settings.trains_speculator:
        texts = regenerate_answers(run, work, rows, adapter, reporter)
        states = collect_states(run, work, texts, adapter, reporter)
        fitted = train_speculator(run, work, states, reporter)
        speculator = work.folder / SPECULATOR / "final"
    measured = _measure(run, work, held, adapter, speculator, reporter)
    report = {
        "format": FORMAT,
        "name": settings.output.name,
        "kind": settings.kind,
        "model": run.source.name,
        "adapter_of": settings.adapter.name if settings.adapter is not None else None,
        "has_adapter": adapter is not None,
        "has_speculator": speculator is not None,
        "command": command(settings),
        "version": run.version,
        "rows": {
            "train": len(rows), "held_out": len(held), "tokens": sum(example.length for example in run.examples)
        },
        "adapter": trained,
        "speculator": fitted,
        "measured": measured,
        "seconds": round(time.monotonic() - started, 1),  # of this run: less when it went on with earlier work
        "identity": work.identity,
    }  # fmt: skip
    _assemble(work, adapter, speculator, report)
    return report


def _measure(
    run: Run, work: Workspace, held: Any, adapter: Path | None, speculator: Path | None, reporter: Reporter
) -> dict[str, Any]:
    """The held-out rows' figures, each kept when it is there. ``before`` is the base model."""
    settings, answered = run.settings, [example for example in held if example.answer_ids is not None]
    measured: dict[str, Any] = {}
    if settings.trains_adapter and answered:
        for name, own in (("before", None), ("after", "trained")):
            measured[name] = work.read(f"measured-{name}")
            reporter.stage(f"measuring {name}", resumed=measured[name] is not None)
            if measured[name] is None:
                adapters = {} if own is None else {own: str(adapter)}
                with run.open_llm(adapters=adapters) as llm:
                    figures = answer_figures(llm, answered, own, run.answer_tokens, reporter.progress)
                measured[name] = work.write(f"measured-{name}", figures)
    if speculator is not None:
        measured["drafts"] = work.read("measured-drafts")
        reporter.stage("measuring drafts", resumed=measured["drafts"] is not None)
        if measured["drafts"] is None:
            figures = draft_figures(
                run.source.path, run.source.name, speculator, adapter, [example.prompt_ids for example in held],
                run.answer_tokens, backend=settings.backend, threads=settings.threads,
            )  # fmt: skip
            measured["drafts"] = work.write("measured-drafts", figures)
    return measured


def _assemble(work: Workspace, adapter: Path | None, speculator: Path | None, report: Mapping[str, Any]) -> None:
    """The folder as it will be, in the work folder."""
    shutil.rmtree(work.result, ignore_errors=True)
    work.result.mkdir()
    if adapter is not None:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(adapter / name, work.result / name)
    if speculator is not None:
        shutil.copytree(speculator, work.result / SPECULATOR)
    (work.result / "README.md").write_text(card(report), encoding="utf-8")
    write_json(work.result / REPORT, report)
