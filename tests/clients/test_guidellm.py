"""guidellm over both generating endpoints."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.model


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_guidellm_measures(client_run, server, served_name, tokenizer_folder, tmp_path, refused, route):
    guidellm = client_run("PACELINE_TEST_GUIDELLM_PYTHON", "guidellm")
    report = tmp_path / "report.json"
    guidellm(
        [
            "run",
            *("--backend", f"kind=openai_http,target={server},request_format={route}"),
            *("--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=4"),
            *("--tokenizer", f"kind=huggingface_auto,model={tokenizer_folder}"),
            *("--data", "kind=synthetic_text,prompt_tokens=48,output_tokens=12"),
            *("--output", f"kind=json,path={report}", "--disable-console"),
        ],
        HF_HUB_OFFLINE="1",
    )
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (4, 0)
    assert benchmark["metrics"]["output_token_count"]["successful"]["mean"] == 12
    assert refused() == 0
