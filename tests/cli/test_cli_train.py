"""``paceline train``: flags reach the training, and its errors are told in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paceline.cli import app
from paceline.errors import InvalidRequestError
from paceline.training import stages
from paceline.training.settings import TrainSettings

ARGUMENTS = ["train", "turbo-lora", "--data", "rows.jsonl", "--output", "out"]


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")


def run(monkeypatch: pytest.MonkeyPatch, outcome: Any, *flags: str) -> tuple[Any, list[TrainSettings]]:
    given: list[TrainSettings] = []

    def train(settings: TrainSettings, reporter: Any) -> dict[str, str]:
        given.append(settings)
        if isinstance(outcome, BaseException):
            raise outcome
        return {"kind": settings.kind, "model": "tiny"}

    monkeypatch.setattr(stages, "train", train)
    return CliRunner().invoke(app, [*ARGUMENTS, *flags]), given


def test_flags_reach_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--rank", "8", "--targets", "q_proj, v_proj", "--speculator-steps", "7", "--max-texts", "9", "--overwrite")
    result, (settings,) = run(monkeypatch, None, *flags, "--speculator-rate", "0.01", "--learning-rate", "0.002")
    assert result.exit_code == 0 and "turbo-lora for tiny" in result.output
    assert settings.kind == "turbo-lora" and settings.output == Path("out") and settings.overwrite
    assert settings.lora.rank == 8 and settings.lora.targets == ("q_proj", "v_proj")
    assert settings.lora.learning_rate == 0.002 and settings.speculator.learning_rate == 0.01
    assert settings.speculator.steps == 7 and settings.speculator.texts == 9


def test_without_flags_the_settings_have_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (settings,) = run(monkeypatch, None)
    assert settings == TrainSettings(kind="turbo-lora", data=Path("rows.jsonl"), output=Path("out"))


def test_what_is_wrong_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = run(monkeypatch, InvalidRequestError("rows.jsonl: 1 line cannot be used"))
    assert result.exit_code == 2 and "Error: rows.jsonl: 1 line cannot be used" in result.output


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = run(monkeypatch, KeyboardInterrupt())
    assert result.exit_code == 130 and "same command again" in result.output and "out.partial" in result.output


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "qlora", "--data", "rows.jsonl", "--output", str(tmp_path / "out")])
    assert result.exit_code == 2 and "kind must be one of lora, turbo-lora, turbo, got 'qlora'" in result.output
