"""The stages that train the speculator: answers by the engine, their hidden states, the fit."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paceline.adapters.peft import read_adapter
from paceline.engine.factory import open_backend
from paceline.errors import InvalidRequestError, PacelineError
from paceline.models.loading import load_model
from paceline.sampling.params import SamplingParams
from paceline.speculation.drafters.turbo_format import SpeculatorConfig
from paceline.training.architecture import default_config, default_layers, target_tables
from paceline.training.data import Example
from paceline.training.fit import FitConfig, fit
from paceline.training.fit import Progress as FitProgress
from paceline.training.lora import use_bf16
from paceline.training.regenerate import BATCH, Text, read_texts, regenerate, write_texts
from paceline.training.report import Reporter
from paceline.training.run import Run
from paceline.training.speculator import new_tensors
from paceline.training.states import StateReader, StateSet, collect, state_scale
from paceline.training.vocabulary import draft_vocabulary
from paceline.training.workspace import Workspace, write_whole

TOP = 16  # likeliest tokens that are kept of each distribution
LEAST_VOCABULARY, MOST_VOCABULARY = 2048, 8192
LEAST_STEPS, MOST_STEPS = 200, 2000
PASSES = 4  # over all places of the texts at which a block may begin
SHORT_ANSWERS = 10  # tokens, on average, below which drafting has nothing to gain
EVALUATIONS = 15


def regenerate_answers(
    run: Run, work: Workspace, rows: Sequence[Example], adapter: Path | None, reporter: Reporter
) -> list[Text]:
    """The model's own answers to the rows' different prompts; parts that are there are not written again."""
    settings = run.settings.speculator
    prompts = list({tuple(row.prompt_ids): row.prompt_ids for row in rows}.values())
    order = np.random.default_rng([run.settings.seed, 6]).permutation(len(prompts))[: settings.texts]
    prompts = [prompts[int(i)] for i in order]
    folder = work.stage("answers")
    files = [folder / f"{start:06d}.jsonl" for start in range(0, len(prompts), BATCH)]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    reporter.stage("answers", resumed=not missing)
    if missing:
        adapters = {} if adapter is None else {"trained": str(adapter)}
        with run.open_llm(adapters=adapters) as llm:
            for number in missing:
                start = number * BATCH
                part = prompts[start : start + BATCH]
                params = [
                    SamplingParams(
                        temperature=settings.temperature,
                        max_tokens=max(1, min(run.answer_tokens, llm.info.context_length - len(prompt))),
                        seed=(run.settings.seed + start + i) % 2**63,
                    )
                    for i, prompt in enumerate(part)
                ]
                write_texts(files[number], regenerate(llm, part, params, adapter="trained" if adapter else None))
                reporter.progress(min(start + BATCH, len(prompts)), len(prompts), "prompts")
    texts = [text for file in files for text in read_texts(file)]
    if len(texts) < 2:
        raise PacelineError(f"the model answered {len(texts)} of {len(prompts)} prompts: nothing to learn from")
    mean = sum(len(text.output_ids) for text in texts) / len(texts)
    if mean < SHORT_ANSWERS:
        reporter.say(f"answers have {mean:.1f} tokens on average: with so short ones a speculator gains little")
    return texts


def collect_states(
    run: Run, work: Workspace, texts: Sequence[Text], adapter: Path | None, reporter: Reporter
) -> StateSet:
    """Hidden states of the texts, with the adapter on. All of them are read again where it was interrupted."""
    folder = work.folder / "states"
    done = work.read("states") is not None
    reporter.stage("states", resumed=done)
    if done:
        return StateSet(folder)
    layers = default_layers(run.spec.num_layers) if run.parent is None else run.parent.config.layers
    limit = run.settings.speculator.max_state_bytes
    _check_disk(work.folder, texts, len(layers) * run.spec.hidden_size, limit)
    backend, _ = open_backend(run.settings.backend, run.threads)
    model = load_model(run.source.path, backend)
    parts = None if adapter is None else read_adapter(adapter, model.adapter_shapes, run.source.name).parts
    reader = StateReader(model, backend, layers, max(len(text.token_ids) for text in texts), parts)
    top = min(TOP, run.spec.vocab_size)
    states = collect(
        reader, texts, folder, layers, window=_window(run), top=top, max_bytes=limit, progress=reporter.progress
    )
    work.write("states", {"texts": len(states)})
    return states


def train_speculator(run: Run, work: Workspace, states: StateSet, reporter: Reporter) -> dict[str, Any]:
    """Fits the speculator and leaves its folder in ``speculator/final`` of the work; what to tell of it."""
    done = work.read("speculator")
    reporter.stage("speculator", resumed=done is not None)
    if done is not None:
        return done
    if run.parent is not None:
        reporter.say(f"it starts from {run.parent.name}, a speculator for this model")
    gc.collect()  # the engine's memory
    settings = run.settings
    folder = work.stage("speculator")
    config = _config(run, states)
    fit_config = fit_settings(run, states)
    tables = target_tables(run.source.path)
    tokens = draft_vocabulary(states, config.vocab_size, run.spec.vocab_size)
    first = new_tensors if run.parent is None else run.parent.tensors_for
    tensors = first(config, tokens, state_scale(states), tables, settings.seed)
    accepted = ""

    def told(report: FitProgress) -> None:
        nonlocal accepted
        if report.accepted is not None:
            accepted = f", held-out drafts {report.accepted:.2f} right"
        reporter.progress(report.step, report.steps, f"loss {report.loss:.3f}{accepted}")

    fitted = fit(
        states, config, tensors, tables.embedding.to(run.device), fit_config,
        folder=folder, device=run.device, progress=told,
    )  # fmt: skip
    data: dict[str, Any] = {
        "rows": len(states),
        "output_tokens": int(states.output_counts().sum()),
        "kind": settings.kind,
    }
    data |= {} if run.parent is None else {"start": run.parent.name}
    write_whole(folder / "final", lambda partial: fitted.save(partial, fit_config, data))
    return work.write(
        "speculator",
        data | {
            "vocabulary": config.vocab_size,
            "steps": fit_config.steps,
            "best_step": fitted.step,
            "held_out_accepted": fitted.accepted,
            "history": fitted.history,
        },
    )  # fmt: skip


def fit_settings(run: Run, states: StateSet) -> FitConfig:
    """Steps and their sizes from the texts: each step has as many anchors as the usual text has places for them."""
    wishes, counts = run.settings.speculator, states.output_counts()
    anchors = int(min(32, max(4, np.median(counts))))
    texts = max(1, min(128 // anchors, len(states) - 1))
    steps = wishes.steps or int(min(MOST_STEPS, max(LEAST_STEPS, PASSES * counts.sum() / (texts * anchors))))
    plain = FitConfig()
    return FitConfig(
        steps=steps,
        texts=texts,
        anchors=anchors,
        learning_rate=wishes.learning_rate or plain.learning_rate,
        warm_up=min(plain.warm_up, max(1, steps // 10)),
        evaluate_every=max(1, steps // EVALUATIONS),
        evaluate_blocks=min(plain.evaluate_blocks, int(max(64, counts.sum() // 4))),
        seed=run.settings.seed,
        bf16=use_bf16(run.settings.precision, run.device),
    )


def _config(run: Run, states: StateSet) -> SpeculatorConfig:
    """A draft vocabulary that holds what the answers are written with, if that is few enough tokens."""
    wishes = run.settings.speculator
    used = len(np.unique(np.concatenate([states[i].token_ids[states[i].first :] for i in range(len(states))])))
    size = wishes.vocabulary or min(MOST_VOCABULARY, max(LEAST_VOCABULARY, used + used // 4))
    size = min(size, run.spec.vocab_size)
    if run.parent is not None:
        return run.parent.config_for(size, wishes.positions, states.files.window)
    return default_config(
        run.spec,
        run.source.name,
        layers=states.files.layers,
        vocab_size=size,
        positions=wishes.positions,
        window=states.files.window,
    )


def _window(run: Run) -> int:
    """Known tokens that the speculator sees: the format's own number, or all that the model does."""
    return max(16, min(512, run.spec.max_context))


def _check_disk(folder: Path, texts: Sequence[Text], width: int, limit: int) -> None:
    needed = min(limit, sum(len(text.token_ids) for text in texts) * 2 * width)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InvalidRequestError(
            f"hidden states of {len(texts)} texts need {needed / 2**20:.0f} MiB in {folder}, and "
            f"{free / 2**20:.0f} MiB are free: make room, or give fewer rows (--max-texts)"
        )
