"""``paceline bench quality`` from the command line, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.bench.quality.answerers import EngineAnswerer
from paceline.cli.bench import app


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PACELINE_BENCH_DATA", raising=False)

    def invoke(*arguments: str):
        return CliRunner().invoke(app, ["quality", *arguments])

    return invoke


def test_speculation_and_cache_leave_every_answer_as_it_is(run, tiny_writer: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = run(str(tiny_writer), "--rows-per-task", "3", "--threads", "1", "--json", str(report))
    assert result.exit_code == 0, result.output
    values = json.loads(report.read_text())
    assert list(values["tasks"]) == ["sums", "copy", "pick", "pick_choice"]
    assert list(values["tasks"]["copy"]["settings"]) == ["base", "speculation=off", "prefix-cache=off"]
    assert len(values["agreements"]) == 8
    assert all(one["must_be_identical"] and one["identical"] == 1.0 for one in values["agreements"])
    assert {one["largest_logprob_difference"] for one in values["agreements"] if one["task"] == "pick"} == {0.0}
    assert "generator (no --data)" in result.output and "must be identical" in result.output


def test_a_broken_promise_is_told_and_the_status_is_1(run, tiny_writer, monkeypatch) -> None:
    write = EngineAnswerer.write

    def spoilt(self, prompts, max_tokens, stop):
        texts = write(self, prompts, max_tokens, stop)
        return texts if self._llm.info.drafters else [*texts[:-1], "something else"]

    monkeypatch.setattr(EngineAnswerer, "write", spoilt)
    options = ["--rows-per-task", "2", "--threads", "1", "--task", "sums", "--setting", "base"]
    result = run(str(tiny_writer), *options, "--setting", "speculation=off")
    assert result.exit_code == 1, result.output
    assert "ERROR: sums: speculation=off must answer as base does, but 1 of 2 texts differ" in result.output
    assert "something else" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--setting", "threads=none"], "threads must be a positive number"),
        (["--task", "gsm8k"], "need --data"),
        (["tiny", "--url", "http://127.0.0.1:1"], "MODEL and --url exclude each other"),
        (["--url", "http://127.0.0.1:1"], "cannot reach http://127.0.0.1:1"),
        (["--url", "http://127.0.0.1:1", "--setting", "backend=torch"], "chosen when a server starts"),
        (["no-such-model"], "no model 'no-such-model'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(run, arguments, told) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and told in errors[0]
