"""``vllm bench serve``, with the counters of speculation that it reads from ``/metrics``."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.model


@pytest.mark.parametrize(("backend", "route"), [("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")])
def test_vllm_bench_serve_measures(
    client_run, server, served_name, tokenizer_folder, tmp_path, refused, backend, route
):
    vllm = client_run("PACELINE_TEST_VLLM_PYTHON", "vllm")
    output = vllm(
        [
            *("bench", "serve", "--backend", backend, "--endpoint", route, "--base-url", server),
            *("--tokenizer", str(tokenizer_folder), "--dataset-name", "random", "--random-input-len", "48"),
            *("--random-output-len", "12", "--num-prompts", "4", "--request-rate", "4", "--ignore-eos"),
            *("--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json"),
        ],
        HF_HUB_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (4, 0)
    assert result["total_output_tokens"] == 48 and result["model_id"] == served_name
    assert refused() == 0
    assert "Serving Benchmark Result" in output
