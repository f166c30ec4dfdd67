"""``paceline bench kernel``: each operation alone, cold, in turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.bench import noise
from paceline.bench.roofline import kernel_suite
from paceline.bench.roofline.ceilings import CeilingMeter
from paceline.bench.roofline.kernel_report import kernel_report
from paceline.bench.roofline.kernel_suite import Wishes, open_bench
from paceline.bench.roofline.kernels import REPEATS, Kernel, KernelBench
from paceline.bench.roofline.work import Work
from paceline.cli.bench import app
from paceline.errors import PacelineError

SMALL = Wishes(rows=(1, 3), attention_rows=(1, 4), contexts=(20, 40), prefills=(24,))


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "CALIBRATION_ROUNDS", 100)
    monkeypatch.setattr(noise, "MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr("paceline.bench.roofline.multiply.SIZES", (64,))
    monkeypatch.setattr("paceline.bench.roofline.ceilings.memory_size", lambda: 1 << 20)
    monkeypatch.setattr(kernel_suite, "last_level_cache", lambda: 1 << 20)


def opened(folder: Path, backend: str, wishes: Wishes = SMALL) -> KernelBench:
    try:
        return open_bench(str(folder), wishes, backend=backend, threads=1)
    except PacelineError as error:
        pytest.skip(str(error))


def test_caches_are_emptied_before_every_run() -> None:
    events: list[str] = []

    def note(what: str) -> Callable[[], float]:
        def run() -> float:
            events.append(what)
            return 1.0

        return run

    kernel = Kernel("down", "product", 1, None, Work(1.0, {"f32": 1.0}), 2, note("run"))
    meter = CeilingMeter(1, note("read"), {})
    bench = KernelBench("cpu", 1, [kernel], meter, note("evict"), note("call"), [])
    bench.run(rounds=2)
    runs = [event for event in events if event != "read"]
    assert runs == (["evict", "call", "call"] * REPEATS + ["evict", "call", "run"] * REPEATS) * 3
    assert len(bench.values["down, 1 rows"]) == len(bench.calls) == len(meter.bandwidths) == 2


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("variant", ["llama", "mixtral", "gemma3_text"])
def test_every_wish_is_measured_in_every_round(
    variant: str, backend: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    bench = opened(tiny_checkpoint(variant), backend)
    bench.run(rounds=2)
    assert len({kernel.name for kernel in bench.kernels}) == len(bench.kernels)
    assert all(len(bench.values[kernel.name]) == 2 and min(bench.values[kernel.name]) > 0 for kernel in bench.kernels)
    shapes = [(kernel.shape, kernel.rows, kernel.context) for kernel in bench.kernels]
    for context in SMALL.contexts:
        assert {("decode", 1, context), ("decode", 4, context), ("verify", 4, context)} <= set(shapes)
    assert ("prefill", 24, 0) in shapes
    assert {rows for shape, rows, _ in shapes if shape == "product"} == {1, 3}
    windows = {kernel.operation for kernel in bench.kernels if kernel.shape == "decode"}
    assert len(windows) == (2 if variant == "gemma3_text" else 1)


def test_work_of_one_layer_is_what_is_compared(tiny_checkpoint: Callable[[str], Path]) -> None:
    bench = opened(tiny_checkpoint("llama"), "torch")
    down = next(kernel for kernel in bench.kernels if kernel.operation.startswith("down") and kernel.rows == 3)
    assert (down.count, down.work) == (3, Work(64 * 96 * 4, {"f32": 2.0 * 64 * 96 * 3}))
    decode = next(
        kernel for kernel in bench.kernels if (kernel.shape, kernel.rows, kernel.context) == ("decode", 4, 40)
    )
    assert decode.work == Work(4 * 41 * 2 * 2 * 16 * 2, {"f32": 4.0 * 4 * 64 * 41})


def test_what_cannot_be_measured_is_told(
    tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_suite, "CACHE_MEMORY", 3 * (40 + 4) * 128)  # three sequences of one layer
    wishes = Wishes(rows=(), attention_rows=(1, 4), contexts=(40, 4000), prefills=(500,))
    bench = opened(tiny_checkpoint("llama"), "torch", wishes)
    assert bench.skipped == [
        "attention behind 4000 tokens: the model's context ends at 128",
        "attention of a prompt of 500 tokens: the model's context ends at 128",
        "attention of 4 sequences behind 40 tokens: too much memory",
    ]
    assert [(kernel.shape, kernel.rows) for kernel in bench.kernels] == [("decode", 1), ("verify", 4)]
    assert {kernel.count for kernel in bench.kernels} == {1}


def test_report_holds_operations_against_the_bound() -> None:
    kernels = [
        Kernel("down", "product", rows, None, Work(100e6, {"int8": rows * 1e9}), 1, lambda: None) for rows in (1, 100)
    ]
    meter = CeilingMeter(1, lambda: 0.0, {}, bandwidths=[10e9], rates={"int8": [1e12]}, fastest={"int8": ["torch"]})
    bench = KernelBench("cpu", 2, kernels, meter, lambda: 0.0, lambda: None, [], calls=[1e-5])
    bench.values = {"down, 1 rows": [0.02, 0.02], "down, 100 rows": [0.2, 0.2]}
    report = kernel_report(bench, "model", 2, "paceline bench kernel")
    rows = report.sections[1].tables[1].rows
    assert [row[-2:] for row in rows] == [["memory", pytest.approx(50.0)], ["arithmetic", pytest.approx(50.0)]]
    assert [row[7:9] for row in rows] == [
        [pytest.approx(5.0), pytest.approx(50.0)],
        [pytest.approx(0.5), pytest.approx(500.0)],
    ]
    assert [entry["share_of_bound"] for entry in report.data["kernels"]] == pytest.approx([0.5, 0.5])


def test_command_prints_tables_and_writes_json(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "kernel.json"
    options = ["--backend", "torch", "--threads", "1", "--rows", "1", "--rows", "2", "--attention-rows", "2"]
    options += ["--context", "16", "--prefill", "8", "--rounds", "1", "--json", str(file)]
    result = CliRunner().invoke(app, ["kernel", str(tiny_checkpoint("llama")), *options])
    assert result.exit_code == 0, result.output
    assert "attention, verify: all rows of one sequence" in result.output
    report = json.loads(file.read_text())
    assert {entry["operation"] for entry in report["kernels"]} >= {"attention, decode", "attention, prefill"}
    assert report["ceilings"]["bandwidth"]["median"] > 0


def test_unknown_model_is_one_line_of_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["kernel", str(tmp_path / "nothing.gguf")])
    assert result.exit_code == 2
    assert len([line for line in result.output.splitlines() if line.startswith("Error:")]) == 1
