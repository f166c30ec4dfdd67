"""``paceline bench spec`` by its methods, on a tiny model and at servers; what does not go together is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from chat_servers import ChatServer, serving
from row_files import write
from typer.testing import CliRunner, Result

from paceline.bench.noise import NoiseGuard
from paceline.bench.speculation.speed_bench.embeddings import Progress, Vectors
from paceline.cli.bench import app, spec_engine, spec_server

ENGINE = ["--backend", "torch", "--threads", "1"]
WORDS = ("fox", "owl", "hen", "cat", "bee", "ant", "elk", "jay", "yak", "cod")


class Letters:
    """A dimension a letter."""

    name, reason = "letters", "letters"

    def embed(self, texts: Sequence[str], show: Progress) -> Vectors:
        counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float32)
        vectors: Vectors = counts / np.linalg.norm(counts, axis=1, keepdims=True)
        return vectors


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(NoiseGuard, "sample", lambda self: None)
    monkeypatch.delenv("PACELINE_BENCH_DATA", raising=False)
    monkeypatch.delenv("PACELINE_API_KEY", raising=False)
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    for module in (spec_engine, spec_server):
        monkeypatch.setattr(module, "open_embedder", Letters)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["spec", *map(str, arguments)])


def plain(result: Result) -> str:
    """Its output without frames and line breaks."""
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two categories of SPEED-Bench, and four questions of Spec-Bench."""
    folder = tmp_path / "data"
    write(folder, "gsm8k/test.jsonl", [{"question": f"how many apples has the {word}"} for word in WORDS])
    turns = [
        {"question_id": i, "category": "stem", "turns": [f"why a {w}", "and how"]} for i, w in enumerate(WORDS[:4])
    ]
    write(folder, "mt_bench/question.jsonl", turns)
    kinds = ("writing", "rag", "qa", "translation")
    rows = [{"question_id": 81 + i, "category": kind, "turns": [f"tell the {kind}"]} for i, kind in enumerate(kinds)]
    write(folder, "spec_bench/question.jsonl", rows)
    return folder


def test_speed_bench_measures_points_and_writes_its_files(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    options = ["--method", "speed-bench", "--split", "qualitative", "--prompts-per-category", 2, "--max-tokens", 6]
    options += ["--concurrency", "2", "--temperature", "0", "--draft-length", "1,auto", "--data", data]
    result = invoke(tiny_model, *ENGINE, *options, "--json", tmp_path / "r.json", "--answers", tmp_path / "a.jsonl")
    assert result.exit_code == 0, result.output
    for title in ("### Acceptance length by category, qualitative", "### Speed", "### Times of requests"):
        assert title in result.output
    assert "by vectors of letters" in result.output and "published" in result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert [(p["concurrency"], p["draft_length"]) for p in report["points"]] == [(2, 1), (2, None)]
    assert report["errors"] == [] and report["run"]["temperatures"] == [0.0]
    assert report["settings"]["prefix cache"] == "off"
    first = report["points"][0]
    assert sorted(first["acceptance_by_category"]) == ["math", "multilingual", "qa", "rag", "stem"]
    assert len(first["on"][0]["turns"]) == 2 + 3 + 2 * 2  # the last ones have two turns
    assert len((tmp_path / "a.2.jsonl").read_text().splitlines()) == 7
    assert len(json.loads((tmp_path / "a.timing.json").read_text())) == 2


def test_spec_bench_compares_answers_and_writes_its_file(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    options = ["--method", "spec-bench", "--max-tokens", 6, "--data", data]
    result = invoke(tiny_model, *ENGINE, *options, "--json", tmp_path / "r.json", "--answers", tmp_path / "a.jsonl")
    assert result.exit_code == 0, result.output
    assert "Spec-Bench (hemingkx, 2024)" in result.output and "### Spec-Bench's figures" in result.output
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["category"] for line in lines] == ["writing", "rag", "qa", "translation"]
    assert (tmp_path / "a.baseline.jsonl").exists()
    (measurement,) = json.loads((tmp_path / "r.json").read_text())["measurements"]
    assert (measurement["set"], measurement["load"], measurement["differences"]) == ("spec_bench", 1, [])
    again = invoke(tiny_model, *ENGINE, "--full", "--prompts", 2, "--max-tokens", 6, "--data", data)
    assert again.exit_code == 0 and "Spec-Bench (hemingkx, 2024)" in again.output


def test_one_draft_length_holds_for_sets(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    options = ["--set", "gsm8k", "--load", 1, "--rounds", 1, "--prompts", 3, "--max-tokens", 12, "--draft-length", 1]
    result = invoke(tiny_model, *ENGINE, *options, "--data", data, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    histogram = json.loads((tmp_path / "r.json").read_text())["measurements"][0]["acceptance"]["histogram"]
    assert max(map(int, histogram)) <= 2


def test_a_paceline_server_is_measured_by_its_reports(data: Path, tmp_path: Path) -> None:
    with serving(ChatServer("paceline")) as url:
        options = ["--method", "speed-bench", "--quick", "--split", "qualitative", "--data", data]
        result = invoke("--url", url, *options, "--json", tmp_path / "r.json", "--api-key", "secret-key")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["settings"]["server"] == url and report["settings"]["without drafts"] == "by request"
    assert report["points"][0]["draft_length"] == 3 and report["points"][0]["off"] != []
    assert any("a draft length is the most that Paceline drafts" in note for note in report["notes"])
    assert "secret-key" not in (tmp_path / "r.json").read_text() + result.output


def test_another_server_is_measured_by_its_counters_beside_one_without_drafts(data: Path, tmp_path: Path) -> None:
    with serving(ChatServer("vllm", cached=2)) as url, serving(ChatServer("plain")) as baseline:
        options = ["--method", "spec-bench", "--data", data, "--answers", tmp_path / "a.jsonl"]
        result = invoke("--url", url, "--baseline-url", baseline, *options, "--json", tmp_path / "r.json")
        alone = invoke("--url", baseline, "--set", "gsm8k", "--data", data, "--prompts", 2, "--load", 1)
        refused = invoke("--url", url, "--method", "speed-bench", "--draft-length", "3", "--data", data)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    (point,) = report["points"]
    assert point["acceptance"]["macro"] is None and point["split"] == "spec_bench" and point["spec_bench"]
    assert any("prefix cache is on" in note for note in report["notes"])
    assert len((tmp_path / "a.baseline.jsonl").read_text().splitlines()) == 4
    assert alone.exit_code == 0, alone.output
    assert "there is no acceptance length" in alone.output and "without --baseline-url" in alone.output
    assert refused.exit_code == 2 and "is no Paceline server" in plain(refused)


def test_several_points_at_a_server_that_remembers_are_noted(data: Path) -> None:
    with serving(ChatServer("paceline")) as url:
        options = ["--method", "speed-bench", "--quick", "--split", "qualitative", "--data", data]
        result = invoke("--url", url, *options, "--draft-length", "1,2")
    assert result.exit_code == 0, result.output
    assert "points marked as asked before follow others" in result.output
    assert "| 2 (asked before)" in result.output and "| 1 (asked before)" not in result.output


def test_a_server_that_miscounts_makes_the_exit_status_one(data: Path) -> None:
    with serving(ChatServer("paceline", lie=1)) as url:
        result = invoke("--url", url, "--method", "spec-bench", "--data", data)
    assert result.exit_code == 1
    assert "ERROR: greedy texts differ, or steps are miscounted" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "fast"], "no method 'fast'; there are sets, spec-bench, speed-bench"),
        (["--method", "spec-bench", "--set", "edit"], "belongs to --method sets"),
        (["--split", "qualitative"], "belongs to --method speed-bench"),
        (["--method", "speed-bench", "--prompts", "3"], "--prompts-per-category"),
        (["--method", "speed-bench", "--split", "long"], "no split 'long'"),
        (["--method", "speed-bench", "--input-length", "100"], "at least 256"),
        (["--temperature", "0,1"], "takes one temperature"),
        (["--temperature", "warm"], "'warm' is not a number from 0 to 100"),
        (["--load", "0"], "'0' is not a whole number of at least 1"),
        (["--draft-length", "64"], "more than the 63 draft tokens"),
        (["--answers", "a.jsonl"], "have a form for answers"),
        (["--baseline-url", "http://127.0.0.1:1"], "goes with --url"),
        (["--url", "http://127.0.0.1:1", "--threads", "2"], "the server decides"),
        (["--url", "http://127.0.0.1:9"], "cannot reach"),
        (["--method", "speed-bench"], "give --data or PACELINE_BENCH_DATA"),
    ],
)
def test_what_does_not_go_together_is_one_line(tiny_model: Path, arguments: list[str], message: str) -> None:
    result = invoke(*([] if "--url" in arguments else [tiny_model, *ENGINE]), *arguments)
    assert result.exit_code == 2, result.output
    assert message in plain(result)
