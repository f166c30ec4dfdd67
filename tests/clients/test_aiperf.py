"""aiperf, which also scrapes the server's metrics."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.model


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_aiperf_measures(client_run, server, served_name, tokenizer_folder, tmp_path, refused, endpoint):
    aiperf = client_run("PACELINE_TEST_AIPERF_PYTHON", "aiperf")
    artifacts = tmp_path / "artifacts"
    aiperf(
        [
            *("profile", "--model", served_name, "--url", server, "--endpoint-type", endpoint, "--streaming"),
            *("--tokenizer", str(tokenizer_folder), "--use-server-token-count"),
            *("--synthetic-input-tokens-mean", "48", "--output-tokens-mean", "12", "--extra-inputs", "ignore_eos:true"),
            *("--concurrency", "2", "--request-count", "4", "--artifact-dir", str(artifacts), "--ui", "none"),
        ]
    )
    result = json.loads((artifacts / "profile_export_aiperf.json").read_text())
    assert result["request_count"]["avg"] == 4
    assert result["output_sequence_length"]["avg"] == 12
    assert "paceline:generation_tokens" in (artifacts / "server_metrics_export.json").read_text()
    assert refused() == 0
