"""``README.md`` of a trained folder: what it is, how to serve it, how it came about, what was measured."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from paceline.training.report import ANSWER_FIGURES
from paceline.training.settings import LoraSettings, SpeculatorSettings, TrainSettings

_WHAT = {
    "lora": "A LoRA adapter",
    "turbo-lora": "A LoRA adapter and its speculator",
    "turbo": "A speculator",
}
#: Flags of single settings, where they are not the setting's name with dashes.
_FLAGS = {"texts": "max-texts", "vocabulary": "draft-vocabulary", "steps": "speculator-steps"}
_WITHOUT_FLAG = {"warm_up_share", "final_share", "weight_decay", "clip", "max_state_bytes", "evaluations"}


def command(settings: TrainSettings) -> str:
    """The command line that repeats the training; of paths only the last part."""
    words = ["paceline", "train", settings.kind]
    if settings.model:
        words += ["--model", settings.model.rstrip("/").rpartition("/")[2] if "/" in settings.model else settings.model]
    words += ["--data", settings.data.name, "--output", settings.output.name]
    if settings.adapter is not None:
        words += ["--adapter", settings.adapter.name]
    own = {"max_length": settings.max_length, "held_out": settings.held_out, "seed": settings.seed}
    plain = {"max_length": None, "held_out": 0.05, "seed": 0}
    words += _flags(own, plain)
    if settings.trains_adapter:
        words += _flags(asdict(settings.lora), asdict(LoraSettings()))
    if settings.trains_speculator:
        words += _flags(asdict(settings.speculator), asdict(SpeculatorSettings()), {"learning_rate": "speculator-rate"})
    return shlex.join(words)


def _flags(values: Mapping[str, Any], defaults: Mapping[str, Any], names: Mapping[str, str] | None = None) -> list[str]:
    words = []
    for key, value in values.items():
        if value == defaults[key] or key in _WITHOUT_FLAG:
            continue
        flag = (names or {}).get(key) or _FLAGS.get(key) or key.replace("_", "-")
        words += [f"--{flag}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return words


def card(report: Mapping[str, Any]) -> str:
    """The text of ``README.md`` from what ``training.json`` holds."""
    kind, model = report["kind"], report["model"]
    of = f" (with an adapter of {report['adapter_of']})" if report.get("adapter_of") else ""
    parts = [
        "---",
        *(["library_name: peft"] if report["has_adapter"] else []),
        "tags: [paceline, " + kind + "]",
        "---",
        "",
        f"# {report['name']}",
        "",
        f"{_WHAT[kind]} for {model}{of}, trained with Paceline {report['version']}. It holds for that model only, "
        "whose licence holds for what is made of it; so may that of the data.",
        "",
        "## Use",
        "",
        *_use(report),
        "",
        "## How it was trained",
        "",
        f"    {report['command']}",
        "",
        f"{report['rows']['train']} rows to train on and {report['rows']['held_out']} held out, "
        f"{report['rows']['tokens']} tokens; every choice and the course of the training are in `training.json`.",
        "",
        "## Measured on the held-out rows",
        "",
        *_figures(report["measured"]),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _use(report: Mapping[str, Any]) -> list[str]:
    model, name = report["model"], report["name"]
    lines = []
    if report["has_adapter"]:
        lines += [
            f"    paceline serve {model} --adapter {name}=FOLDER",
            "",
            f"Requests name it as their `model`: `{name}`. The two files `adapter_*` are as PEFT saves them.",
        ]
    if report["has_speculator"]:
        who = "this adapter" if report["has_adapter"] else "the model"
        lines += [
            *([""] if lines else []),
            f"`speculator/` is the speculator for {who}: `--speculator FOLDER/speculator`.",
        ]
    return lines


def _figures(measured: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    columns = [name for name in ("before", "after") if measured.get(name)]
    if columns:
        lines += ["| held-out answers | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for key, label, form in ANSWER_FIGURES:
            lines.append(f"| {label} | " + " | ".join(form.format(measured[name][key]) for name in columns) + " |")
        lines.append("")
    if drafts := measured.get("drafts"):
        shares = ", ".join(f"{share:.2f}" for share in drafts["accepted_per_position"])
        lines += [
            f"Tokens a step with the speculator, greedy, every draft verified whole: {drafts['acceptance_length']:.2f} "
            f"(1.00 without). Accepted by position: {shares}.",
        ]
    return lines
