"""``paceline bench diagnose`` against servers that answer as told."""

from __future__ import annotations

import json
import time
from itertools import count

import pytest
from scripted_http import scripted_http
from typer.testing import CliRunner

from paceline.bench.diagnose import local
from paceline.bench.diagnose.probes import ANSWER_TOKENS, Prober
from paceline.bench.endpoint import EndpointError, endpoint_of
from paceline.cli.bench import app


class Server:
    """Answers completions after a time for each prompt token; ``metrics`` is its /metrics, None: it has none."""

    def __init__(self, metrics=None, seconds_a_token: float = 0.0, chat_only: bool = False, usage: bool = True) -> None:
        self.metrics = metrics
        self.seconds_a_token = seconds_a_token
        self.chat_only = chat_only
        self.usage = usage
        self.prompts: list[str] = []
        self.bodies: list[dict] = []

    def __call__(self, method, path, body):
        if path == "/metrics":
            return (404, "not here") if self.metrics is None else (200, self.metrics())
        if path == "/v1/models":
            return 200, {"data": [{"id": "m", "max_model_len": 600}]}
        if path == "/health":
            return 200, "ok"
        if self.chat_only and path == "/v1/completions":
            return 404, {"error": {"message": "chats only"}}
        prompt = body["messages"][0]["content"] if self.chat_only else body["prompt"]
        self.prompts.append(prompt)
        self.bodies.append(body)
        tokens = len(prompt.split())
        time.sleep(tokens * self.seconds_a_token)
        key = {"delta": {"content": " x"}} if self.chat_only else {"text": " x"}
        events = [{"choices": [key]} for _ in range(body["max_tokens"])]
        usage = {"prompt_tokens": tokens, "completion_tokens": body["max_tokens"]}
        return 200, [*events, *([{"choices": [], "usage": usage}] if self.usage else [])]


def run(*arguments: str):
    return CliRunner().invoke(app, ["diagnose", *arguments])


def waiting_metrics():
    """Six sequences wait, one more request begins with every reading."""
    readings = count(1)

    def text() -> str:
        n = next(readings)
        rows = [
            ("paceline:num_requests_running gauge", "paceline:num_requests_running 3"),
            ("paceline:num_requests_waiting gauge", "paceline:num_requests_waiting 6"),
            ("paceline:kv_cache_usage gauge", "paceline:kv_cache_usage 0.3"),
            ("paceline:time_to_first_token_seconds histogram", f"paceline:time_to_first_token_seconds_count {n}\n"
             f"paceline:time_to_first_token_seconds_sum {n}"),
        ]  # fmt: skip
        return "".join(f"# TYPE {kind}\n{sample}\n" for kind, sample in rows)

    return text


@pytest.fixture
def alone(monkeypatch):
    """What else this machine does is not the matter: it is neither looked at nor does it make timers late."""
    monkeypatch.setattr(local, "watch", lambda host, port: None)
    monkeypatch.setattr("paceline.bench.diagnose.run._naps", lambda seconds: time.sleep(seconds) or [0.0])


def test_waiting_sequences_are_found_and_told_with_a_flag(tmp_path, alone):
    report = tmp_path / "report.json"
    with scripted_http(Server(waiting_metrics())) as url:
        result = run(url, "--watch", "1", "--no-probes", "--json", str(report))
    assert result.exit_code == 0, result.output
    values = json.loads(report.read_text())
    assert values["finding"]["cause"] == "queue"
    assert "--max-running above 3" in result.output and "6.0 sequences wait on average" in result.output
    assert values["observations"]["traffic"]["requests"] >= 1
    assert values["observations"]["probes"] is None and "no requests were sent" in result.output
    assert "watching http" in result.output


def test_a_server_without_metrics_is_looked_at_from_outside(alone):
    with scripted_http(Server(seconds_a_token=0.0005)) as url:
        result = run(url, "--watch", "1")
    assert result.exit_code == 0, result.output
    assert "load, queue and KV cache: the server has no /metrics" in result.output
    assert "/metrics answered 404" in result.output and "tokens a second of one stream" in result.output


def test_probes_see_the_time_grow_with_the_prompt_and_never_ask_twice_the_same():
    server = Server(seconds_a_token=0.0005)
    with scripted_http(server) as url:
        probes = Prober(endpoint_of(url)).run()
    assert probes.long_tokens > 5 * probes.short_tokens and probes.long_tokens < 600  # within the model's context
    assert probes.long_ttft - probes.short_ttft > 0.8 * 0.0005 * (probes.long_tokens - probes.short_tokens)
    assert probes.prefill_rate is not None and probes.prefill_rate < 1 / (0.8 * 0.0005)
    assert len(set(server.prompts)) == len(server.prompts)
    assert all("ignore_eos" not in body and body["model"] == "m" for body in server.bodies)


def test_a_server_for_chats_only_is_asked_in_chats():
    server = Server(chat_only=True, usage=False)
    with scripted_http(server) as url:
        probes = Prober(endpoint_of(url), extra={"ignore_eos": True}).run()
    assert probes.answer_tokens == ANSWER_TOKENS  # a token a chunk, where the server does not count
    assert all(body["ignore_eos"] for body in server.bodies)


def test_a_server_that_refuses_the_probes_is_told():
    def refuse(method, path, body):
        return (200, {"data": [{"id": "m"}]}) if method == "GET" else (401, {"error": {"message": "no key"}})

    with scripted_http(refuse) as url, pytest.raises(EndpointError, match="401: no key"):
        Prober(endpoint_of(url)).run()


def test_nobody_there_is_one_line_and_status_2():
    result = run("http://127.0.0.1:1", "--watch", "1")
    assert result.exit_code == 2
    assert [line for line in result.output.splitlines() if line.startswith("Error: cannot reach http://127.0.0.1:1")]


def test_a_process_that_listens_here_is_found_and_its_work_is_counted():
    with scripted_http(Server()) as url:
        endpoint = endpoint_of(url)
        watch = local.watch(endpoint.host, endpoint.port)
        if watch is None:
            pytest.skip("this system does not tell whose a port is")
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
        seen = watch.stop()
    assert seen.server_cores > 0.3  # the listener is this very process
    assert seen.cores >= 1 and 0 < seen.free_bytes < seen.total_bytes


def test_a_server_elsewhere_has_no_process_here():
    assert not local.is_here("192.0.2.1")
    assert local.is_here("localhost") and local.is_here("127.0.0.1")
    assert local.watch("127.0.0.1", 1) is None


def test_a_key_is_sent_and_not_told(monkeypatch, alone, tmp_path):
    keys = []
    server = Server(seconds_a_token=0.0001)
    monkeypatch.setattr("sys.argv", ["paceline", "bench", "diagnose", "URL", "--api-key", "s3cret"])
    report = tmp_path / "report.json"
    with scripted_http(server, headers=keys.append) as url:
        assert run(url, "--watch", "1", "--api-key", "s3cret", "--json", str(report)).exit_code == 0
    assert {headers["Authorization"] for headers in keys} == {"Bearer s3cret"}
    assert "s3cret" not in report.read_text() and "--api-key ..." in report.read_text()
