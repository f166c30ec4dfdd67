"""Rows of a small task for the tiny models: three words in, a text made of the first two out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from paceline.training.settings import LoraSettings, SpeculatorSettings, TrainSettings
from tiny_models import save_tiny_model
from tiny_tokenizer import save_tiny_tokenizer

WORDS = ("red", "tin", "one", "hat", "sea", "ant", "ice", "oat", "rose", "den")


def chat(question: str, answer: str | None) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"messages": [*messages, {"role": "assistant", "content": answer}] if answer is not None else messages}


def task_rows(count: int, answers: bool = True) -> list[dict[str, Any]]:
    generator = random.Random(0)
    rows = []
    for _ in range(count):
        a, b, c = generator.sample(WORDS, 3)
        rows.append(chat(f"{a} {b} {c}", f"{b}-{a}" if answers else None))
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def save_task_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_tiny_model("smollm2", folder)
    save_tiny_tokenizer(folder)
    return folder


def toy_settings(kind: str, model: Path, data: Path, output: Path, **changes: Any) -> TrainSettings:
    """A training of a few seconds."""
    values: dict[str, Any] = {
        "max_length": 60,
        "held_out": 0.1,
        "backend": "auto",
        "precision": "f32",
        "threads": 1,
        "lora": LoraSettings(rank=4, learning_rate=0.01, epochs=2, batch_tokens=100, evaluations=3),
        "speculator": SpeculatorSettings(steps=20, max_new_tokens=8),
        **changes,
    }
    return TrainSettings(kind=kind, model=str(model), data=data, output=output, **values)
