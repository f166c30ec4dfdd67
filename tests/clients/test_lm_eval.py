"""lm-eval's ``local-completions``: text, log probabilities by echo, and the server's tokenizer instead of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paceline.bench.quality.answerers import EngineAnswerer

pytestmark = pytest.mark.model
TASKS = Path(__file__).parent / "lm_eval_tasks"


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """The tasks with whole paths to their rows; lm-eval looks for relative ones where it was started."""
    folder = tmp_path / "tasks"
    shutil.copytree(TASKS, folder)
    for task in folder.glob("*.yaml"):
        task.write_text(task.read_text().replace("test: ", f"test: {folder}/", 1))
    return folder


def test_lm_eval_generates_and_weighs(client_run, server, served_name, tasks, tmp_path, default_model, refused):
    lm_eval = client_run("PACELINE_TEST_LM_EVAL_PYTHON", "lm_eval")
    model = f"model={served_name},base_url={server}/v1/completions,num_concurrent=2"
    options = ["--include_path", str(tasks), "--tasks", "paceline_sums,paceline_choices", "--log_samples"]
    output = lm_eval(
        [
            "run",
            "--model",
            "local-completions",
            "--model_args",
            model,
            *options,
            "--output_path",
            str(tmp_path / "out"),
        ],
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
    )
    assert "Using remote tokenizer backend" in output
    results = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())["results"]
    assert 0 <= results["paceline_sums"]["exact_match,last-number"] <= 1
    assert results["paceline_choices"]["acc,none"] >= 2 / 3  # questions that even this model knows
    assert refused() == 0
    samples = next((tmp_path / "out").rglob("samples_paceline_choices_*.jsonl")).read_text().splitlines()
    _check_weights([json.loads(line) for line in samples], default_model)


def _check_weights(samples: list[dict], model: Path) -> None:
    """What lm-eval made of echoed log probabilities is what the engine says of each option."""
    engine = EngineAnswerer(str(model), {"threads": 1, "max_running": 4})
    try:
        for sample in samples:
            options = [f" {choice}" for choice in sample["doc"]["choices"]]
            (weights,) = engine.weigh([sample["doc"]["question"]], options)
            seen = [float(response[0]) for response in sample["filtered_resps"]]
            assert seen == pytest.approx(weights, abs=1e-4)
    finally:
        engine.close()
