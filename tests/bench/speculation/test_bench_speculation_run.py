"""The run: who goes first, on which engine, what is left out; and the command on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_engine import LetterPrompter, ScriptedEngine, Session
from typer.testing import CliRunner

from paceline.bench import publish as publish_module
from paceline.bench.noise import NoiseGuard
from paceline.bench.prompts import DataError
from paceline.bench.sections import Report
from paceline.bench.speculation import run as run_module
from paceline.bench.speculation.calibration import Calibration
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.plots import calibration_plot
from paceline.bench.speculation.run import EngineSession, Settings, SpeculationBench
from paceline.bench.speculation.turns import Pass
from paceline.bench.speculation.workloads import NAMED, Conversation, Workload
from paceline.cli.bench import app
from paceline.engine.options import EngineOptions


@pytest.fixture(autouse=True)
def _no_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseGuard, "sample", lambda self: None)


def bench(engine: ScriptedEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> SpeculationBench:
    monkeypatch.setattr(run_module, "Prompter", lambda tokenizer: LetterPrompter())
    return SpeculationBench(Session(engine), settings, say=lambda text: None)  # type: ignore[arg-type]


def made(count: int, length: int = 5, name: str = "made") -> Workload:
    return Workload(name, "", lambda _: [Conversation(str(i), "", (f"{i:03d}" + "x" * length,)) for i in range(count)])


def measured(engine: ScriptedEngine) -> list[tuple[bool, int]]:
    """(with drafts, prompt length) of all requests but the warm-ups."""
    return [
        (request.params.speculative.enabled, len(request.prompt_ids))  # type: ignore[union-attr]
        for request in engine.requests
        if len(request.prompt_ids) < 50
    ]


def test_rounds_alternate_who_goes_first_and_every_pass_has_the_same_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda _: "abcdef")
    run = bench(engine, Settings(loads=(1,), prompts=2, rounds=2), monkeypatch)
    run.run([made(5)])
    assert [speculative for speculative, _ in measured(engine)] == [False] * 2 + [True] * 4 + [False] * 2
    prompts = [tuple(r.prompt_ids) for r in engine.requests if len(r.prompt_ids) < 50]
    assert prompts[0:2] == prompts[2:4] == prompts[4:6] == prompts[6:8]
    (measurement,) = run.measurements
    assert len(measurement.off) == len(measurement.on) == 2
    assert measurement.differences() == measurement.miscounts() == []


def test_the_engine_forgets_before_each_pass_and_warms_up_behind_that(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda _: "abcdef")
    run = bench(engine, Settings(loads=(1,), prompts=2, rounds=1), monkeypatch)
    run.run([made(5)])
    assert run.session.renewed == [0, 3 + 2]  # type: ignore[attr-defined]


def test_prompts_that_exceed_the_context_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda _: "abc", context_length=400)
    mixed = Workload("mixed", "", lambda _: [*made(3).load(Path()), *made(3, 500).load(Path())])
    run = bench(engine, Settings(loads=(1,), prompts=0, rounds=1), monkeypatch)
    run.run([mixed])
    assert len(run.measurements[0].planned) == 3
    assert run.notes == ["mixed: left out 3 prompts that, with 128 tokens of output, exceed the context of 400"]


def test_a_set_with_too_few_prompts_says_how_many_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench(ScriptedEngine(lambda _: "abc"), Settings(loads=(1, 8), rounds=1), monkeypatch)
    run.run([made(10)])
    assert run.notes == ["made: it has only 10 of the 24 prompts that were asked for"]
    assert [len(m.planned) for m in run.measurements] == [10, 10]


def test_sets_without_data_are_skipped_and_nothing_left_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda _: "abc")
    run = bench(engine, Settings(loads=(1,), prompts=1, rounds=1), monkeypatch)
    run.run([NAMED["edit"], made(3)])
    assert [m.workload for m in run.measurements] == ["made"]
    assert run.notes[0].startswith("skipped edit: it needs edit_eval")
    with pytest.raises(DataError, match="skipped edit"):
        bench(engine, Settings(), monkeypatch).run([NAMED["edit"]])


def test_other_sets_are_measured_when_all_are_missing_but_not_when_one_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(loads=(1,), prompts=1, rounds=1)
    run = bench(ScriptedEngine(lambda _: "abc"), settings, monkeypatch)
    run.run([NAMED["edit"]], [made(3, name="built in")])
    assert [m.workload for m in run.measurements] == ["built in"]
    assert run.notes[0].startswith("skipped edit")
    run = bench(ScriptedEngine(lambda _: "abc"), settings, monkeypatch)
    run.run([NAMED["edit"], made(3)], [made(3, name="built in")])
    assert [m.workload for m in run.measurements] == ["made"]


@pytest.mark.parametrize(("load", "count"), [(1, 12), (4, 12), (8, 24), (32, 64)])
def test_by_default_there_are_at_least_twice_as_many_prompts_as_streams(load: int, count: int) -> None:
    assert Settings().prompts_for(load) == count
    assert Settings(prompts=5).prompts_for(load) == 5
    assert Settings(prompts=0).prompts_for(load) is None


class Forgetting:
    def __init__(self, log: list[str]) -> None:
        self.cache = SimpleNamespace(clear_prefix_cache=lambda: log.append("prefixes"))
        self.reset_speculation = lambda: log.append("drafters")


@pytest.mark.parametrize("drafters", [["suffix"], []])
def test_a_session_forgets_what_drafters_and_prefix_cache_know(
    monkeypatch: pytest.MonkeyPatch, drafters: list[str]
) -> None:
    log: list[str] = []

    def build(options: EngineOptions, own_process: bool) -> tuple[Any, Any]:
        log.append("built")
        return Forgetting(log), SimpleNamespace(drafters=drafters, path="")

    monkeypatch.setattr(run_module, "build_engine", build)
    monkeypatch.setattr(run_module, "load_tokenizer", lambda path: None)
    session = EngineSession(EngineOptions())
    session.renew()
    assert log == ["built", "drafters", "prefixes"]
    assert ("drafters" in session.way) and ("no drafters" in session.way) == (not drafters)


# The command

SMALL = ["--backend", "torch", "--threads", "1", "--rounds", "1", "--prompts", "3", "--max-tokens", "6"]


def test_command_prints_tables_and_writes_json(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PACELINE_BENCH_DATA", raising=False)
    write_rows(tmp_path)
    file = tmp_path / "report.json"
    options = [*SMALL, "--load", "1", "--load", "2", "--set", "gsm8k", "--data", str(tmp_path), "--json", str(file)]
    result = CliRunner().invoke(app, ["spec", str(tiny_model), *options])
    assert result.exit_code == 0, result.output
    for title in ("### Speed", "### Acceptance", "### Spec-Bench's figures", "### Targets"):
        assert title in result.output
    assert "plain text (no chat template)" in result.output
    report = json.loads(file.read_text())
    assert [(m["set"], m["load"], m["prompts"]) for m in report["measurements"]] == [("gsm8k", 1, 3), ("gsm8k", 2, 3)]
    assert report["errors"] == []
    assert report["settings"]["max_tokens"] == 6


def test_a_greedy_difference_makes_the_exit_status_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path)
    honest = SpeculationBench._pass

    def corrupted(self: SpeculationBench, load: int, planned: Sequence[Planned], speculative: bool) -> Pass:
        passed = honest(self, load, planned, speculative)
        if speculative:
            passed.turns[1, 0].token_ids[2] += 1
        return passed

    monkeypatch.setattr(SpeculationBench, "_pass", corrupted)
    options = [*SMALL, "--load", "1", "--set", "gsm8k", "--data", str(tmp_path)]
    result = CliRunner().invoke(app, ["spec", str(tiny_model), *options])
    assert result.exit_code == 1
    assert "ERROR: greedy texts differ (1)" in result.output
    assert "differs from token 2 on" in result.output
    sampled = CliRunner().invoke(app, ["spec", str(tiny_model), *options, "--temperature", "1"])
    assert sampled.exit_code == 0, sampled.output
    assert "sampled texts differ" in sampled.output


def test_unknown_set_is_refused_with_the_known_ones(tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["spec", str(tiny_model), "--set", "poems"])
    assert result.exit_code == 2
    assert "poems" in result.output and "edit" in result.output


def test_a_named_set_that_the_folder_lacks_is_one_line_of_error(tiny_model: Path, tmp_path: Path) -> None:
    options = [*SMALL, "--data", str(tmp_path), "--set", "edit"]
    result = CliRunner().invoke(app, ["spec", str(tiny_model), *options])
    assert result.exit_code == 2
    assert "Error: skipped edit" in result.output and "is missing" in result.output


def write_rows(folder: Path) -> None:
    (folder / "gsm8k").mkdir()
    rows = [{"question": f"how many apples has the {name}", "answer": ""} for name in ("fox", "owl", "hen", "cat")]
    (folder / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_report_keeps_its_keys_and_its_plots_are_whole(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Report] = []
    honest = publish_module.publish

    def kept(report: Report, **files: Path | None) -> None:
        made.append(report)
        honest(report, **files)

    monkeypatch.setattr(publish_module, "publish", kept)
    write_rows(tmp_path)
    file = tmp_path / "report.json"
    options = [*SMALL, "--load", "1,2", "--set", "gsm8k", "--data", str(tmp_path), "--json", str(file)]
    result = CliRunner().invoke(app, ["spec", str(tiny_model), *options])
    assert result.exit_code == 0, result.output
    assert set(json.loads(file.read_text())) >= {
        "machine", "model", "backend", "drafters", "choices", "data", "settings", "forgetting", "prefix_cache", "quiet",
        "noise", "errors", "notes", "calibration", "measurements", "targets",
    }  # fmt: skip
    (report,) = made
    assert not {"title", "command", "settings", "warnings", "sections", "machine"} & set(report.data)
    plots = {plot.title: plot for section in report.sections for plot in section.plots}
    assert {"Speed-up by drafts (user TPS)", "Acceptance length by set (macro)"} <= set(plots)
    assert {"Acceptance by position in the draft", "Tokens that a verification step gave"} <= set(plots)
    for plot in plots.values():
        for series in plot.series:
            assert len(series.x) == len(series.y)
            assert series.low is None or len(series.low) == len(series.y)
    assert [series.name for series in plots["Speed-up by drafts (user TPS)"].series] == ["1 at a time", "2 at a time"]
    assert sum(plots["Tokens that a verification step gave"].series[0].y) == pytest.approx(1.0)
    assert report.settings["max_tokens"] == 6 and report.settings["loads"] == "1, 2"


def test_calibration_has_a_line_a_drafter() -> None:
    class Telling:
        def speculation_reliability(self) -> list[tuple[str, float, float, int]]:
            return [("suffix 0.8-0.9", 0.85, 0.8, 5), ("suffix 0.1-0.2", 0.15, 0.1, 5), ("turbo 0.5-0.6", 0.55, 0.6, 2)]

    calibration = Calibration()
    calibration.add(Telling())  # type: ignore[arg-type]
    suffix, turbo, ideal = calibration_plot(calibration).series
    assert (suffix.name, list(suffix.x), list(suffix.y)) == ("suffix", [0.15, 0.85], [0.1, 0.8])
    assert (turbo.name, ideal.limit) == ("turbo", True)
