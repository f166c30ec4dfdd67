"""Step times of a tiny model, and their table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.bench import noise
from paceline.bench.prompts import DataError
from paceline.bench.roofline.work import Ceilings, Work
from paceline.bench.step import answer_tokens, open_bench
from paceline.bench.step_report import floor_seconds, lines, step_table
from paceline.cli.bench import app


@pytest.fixture(autouse=True)
def _short_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "CALIBRATION_ROUNDS", 100)
    monkeypatch.setattr(noise, "MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr("paceline.bench.roofline.multiply.SIZES", (64,))


def test_each_round_has_one_value_of_everything(tiny_model: Path) -> None:
    bench = open_bench(str(tiny_model), backend="torch", threads=1, contexts=[20])
    bench.run(rows=[1, 3], lengths=[8, 40, 4000], rounds=2, steps=2)
    assert set(bench.values) == {"read", "step 1", "model 1", "step 3", "model 3", "prefill 8", "prefill 40"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in bench.values.values())
    for rows in (1, 3):
        assert all(m <= s for m, s in zip(bench.values[f"model {rows}"], bench.values[f"step {rows}"], strict=True))
    assert bench.prompts.made == 3 + 2 * 3  # all reserved: those of the rows, and of three rounds of prefills
    assert bench.skipped == ["a prefill of 4000 tokens: the engine's context is 512"]
    assert set(bench.works) == {"step 1", "step 3", "prefill 8", "prefill 40"}
    assert not bench.engine.has_work()
    assert bench.engine.stats().kv_blocks_used == 0


def test_read_loop_covers_weights_and_context(tiny_model: Path) -> None:
    short = open_bench(str(tiny_model), backend="torch", threads=1, contexts=[16])
    long = open_bench(str(tiny_model), backend="torch", threads=1, contexts=[48])
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
    text = "\n".join(str(cell) for row in step_table(table).rows for cell in row)
    assert "1.30 ms (769 tokens/s)" in text
    assert "20.0 GB/s" in text
    assert "3500 tokens/s" in text
    assert "≤ 1.35" in text and "≤ 1.6" in text


def test_steps_behind_other_contexts_have_names_of_their_own(tiny_model: Path) -> None:
    bench = open_bench(str(tiny_model), backend="torch", threads=1, contexts=[16, 64])
    bench.run(rows=[1, 2], lengths=[], rounds=1, steps=1)
    steps = {"step 1", "step 2", "step 1 at 64", "step 2 at 64"}
    assert set(bench.works) == steps
    assert set(bench.values) == {"read", *steps, *(name.replace("step", "model") for name in steps)}
    near, far = bench.works["step 2"][0], bench.works["step 2 at 64"][0]
    assert near[0] == far[0]
    assert far[1].nbytes / near[1].nbytes == pytest.approx(65 / 17)
    titles = [line.title for line in lines(bench.values, bench.step_bytes)]
    assert "decode step, 2 rows behind 64 tokens" in titles


def test_context_that_does_not_fit_is_refused_with_the_limit(tiny_model: Path) -> None:
    bench = open_bench(str(tiny_model), backend="torch", threads=1, contexts=[510])
    with pytest.raises(DataError, match=r"510 tokens of context and 9 to decode .* 512"):
        bench.run(rows=[1], lengths=[], rounds=1, steps=1)
    assert answer_tokens(1, 1) == 9


def test_more_rows_than_the_engine_runs_are_told_and_left_out(tiny_model: Path) -> None:
    bench = open_bench(str(tiny_model), backend="torch", threads=1, contexts=[8])
    bench.run(rows=[1, 1000], lengths=[], rounds=1, steps=1)
    assert set(bench.works) == {"step 1"}
    assert bench.skipped == ["1000 rows: the engine runs 32 sequences at most"]


def test_floor_adds_products_and_attention_each_with_its_own_bound() -> None:
    machine = Ceilings(100.0, {"int8": 1000.0, "f32": 10.0})
    products, attention = Work(300.0, {"int8": 100.0}), Work(10.0, {"f32": 20.0})
    assert floor_seconds([(products, attention), (products, attention)], machine) == 2 * (3.0 + 2.0)
    table = lines({"read": [1.0], "step 1": [15.0], "model 1": [14.0]}, 1, {"step 1": 10.0})
    assert [row[3] for row in step_table(table).rows] == ["", "1.50 x", ""]


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
    assert (report["context"], report["contexts"]) == (8, [8])
    assert set(report["floors"]) == {"step 1", "step 2", "prefill 8"}
    assert set(report["ceilings"]["rates"]) == {"f32"}
