"""Step times of a tiny model, and their table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.bench import noise
from paceline.bench.step import open_bench
from paceline.bench.step_report import lines, step_table
from paceline.cli.bench import app


@pytest.fixture(autouse=True)
def _short_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "CALIBRATION_ROUNDS", 100)
    monkeypatch.setattr(noise, "MEMORY_BYTES", 1 << 20)


def test_each_round_has_one_value_of_everything(tiny_model: Path) -> None:
    bench = open_bench(str(tiny_model), backend="torch", threads=1, context=20)
    bench.run(rows=[1, 3], lengths=[8, 40, 4000], rounds=2, steps=2)
    assert set(bench.values) == {"read", "step 1", "model 1", "step 3", "model 3", "prefill 8", "prefill 40"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in bench.values.values())
    for rows in (1, 3):
        assert all(m <= s for m, s in zip(bench.values[f"model {rows}"], bench.values[f"step {rows}"], strict=True))
    assert bench.prompts.made == 3 + 2 * 3  # all reserved: those of the rows, and of three rounds of prefills
    assert not bench.engine.has_work()
    assert bench.engine.stats().kv_blocks_used == 0


def test_read_loop_covers_weights_and_context(tiny_model: Path) -> None:
    short = open_bench(str(tiny_model), backend="torch", threads=1, context=16)
    long = open_bench(str(tiny_model), backend="torch", threads=1, context=48)
    spec = short.engine.spec
    assert long.step_bytes - short.step_bytes == 32 * 2 * len(spec.layers) * spec.num_kv_heads * spec.head_dim * 2


def test_table_judges_one_row_against_the_read_loop_and_eight_against_one() -> None:
    values = {
        "read": [1e-3],
        "step 1": [1.3e-3],
        "model 1": [1.2e-3],
        "step 8": [3e-3],
        "model 8": [2e-3],
        "prefill 350": [0.1],
    }
    table = lines(values, 20_000_000)
    assert [(line.name, line.met) for line in table if line.met is not None] == [("step 1", True), ("step 8", False)]
    text = step_table(table)
    assert "1.30 ms (769 tokens/s)" in text
    assert "20.0 GB/s" in text
    assert "3500 tokens/s" in text
    assert "≤ 1.35" in text and "≤ 1.6" in text


def test_command_prints_the_table_and_writes_json(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    options = ["--backend", "torch", "--threads", "1", "--rows", "1", "--rows", "2", "--prefill", "8"]
    options += ["--context", "8", "--rounds", "1", "--steps", "1", "--json", str(file)]
    result = CliRunner().invoke(app, ["step", str(tiny_model), *options])
    assert result.exit_code == 0, result.output
    assert "decode step, 2 rows" in result.output
    report = json.loads(file.read_text())
    assert set(report["seconds"]) == {"read", "step 1", "model 1", "step 2", "model 2", "prefill 8"}
    assert report["machine"]["cores"] >= 1
