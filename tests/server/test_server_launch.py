"""``paceline serve`` as a user meets it: a process, its output, its exit."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from scripted_server import byte_tokenizer, wait_until

from paceline.engine.messages import Choice, EngineReady
from paceline.server import banner
from paceline.server.config import ServerConfig
from paceline.server.launch import bind, names_of

READY = EngineReady(
    model="tiny", context_length=64, vocab_size=9, max_queue=4, choices=[Choice("threads", "2", "2 usable cores")]
)


def run_cli(*arguments: str, timeout_s: float = 20, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "paceline", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=env, check=False)


def test_help_lists_every_command_without_heavy_imports():
    code = "import sys; sys.argv = ['paceline', '--help']\ntry:\n    from paceline.cli import main; main()\nfinally:\n"
    code += "    print('HEAVY', {'torch', 'fastapi', 'transformers', 'numpy', 'zmq'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert "HEAVY set()" in done.stdout
    assert all(command in done.stdout for command in ("serve", "chat", "run", "bench"))


def test_version_is_printed():
    assert re.fullmatch(r"paceline \S+\n", run_cli("--version").stdout)


def test_serve_help_names_every_option():
    shown = run_cli("serve", "--help", COLUMNS="200").stdout
    for option in ("--host", "--port", "--api-key", "--max-queue", "--max-body-mb", "--context-length", "--cors-origin",
                   "--drain-timeout", "--served-model-name", "--kv-cache-mb", "--threads", "--backend"):  # fmt: skip
        assert option in shown


def test_a_busy_port_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_cli("serve", "no/such/model", "--port", port, timeout_s=5)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is already in use" in done.stderr
    assert "--port" in done.stderr


def test_a_model_that_is_not_there_is_told_in_words():
    done = run_cli("serve", "./no-such-folder", "--port", "0", timeout_s=60)
    assert done.returncode == 1
    assert "no-such-folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_socket_on_a_free_port_listens():
    with contextlib.closing(bind("127.0.0.1", 0)) as sock, socket.create_connection(sock.getsockname(), timeout=1):
        pass


@pytest.mark.parametrize(
    ("model", "served_as", "names"),
    [
        ("", (), ("smollm2-135m",)),
        ("SmolLM2-135m", (), ("smollm2-135m",)),
        ("org/name", (), ("org/name", "name")),
        ("anything", ("a", "b"), ("a", "b")),
    ],
)
def test_models_are_known_by_what_the_user_calls_them(model, served_as, names):
    assert names_of(model, served_as) == names


def test_files_and_folders_are_known_by_their_short_name(tmp_path):
    file = tmp_path / "tiny.Q8.gguf"
    file.touch()
    assert names_of(str(file)) == ("tiny.Q8", str(file))
    assert names_of(str(tmp_path)) == (tmp_path.name, str(tmp_path))


def announced(chat: bool = True, **config: Any) -> str:
    out = io.StringIO()
    banner.announce(ServerConfig(model_names=("tiny",), **config), READY, chat, 1.25, out)
    return out.getvalue()


def test_the_report_names_every_choice_with_its_reason():
    text = announced()
    assert re.search(r"threads +2 +2 usable cores", text)
    assert "ready in 1.2 s" in text and "http://127.0.0.1:8000" in text


def test_the_printed_curl_is_a_valid_command():
    command = announced(api_keys=("secret",)).split("Try:")[1]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/chat/completions"]
    assert json.loads(words[-1])["messages"]
    assert "Authorization: Bearer $PACELINE_API_KEY" in words
    assert "secret" not in command


def test_a_model_without_template_gets_a_completion_to_try():
    assert "/v1/completions" in announced(chat=False)


def test_the_address_is_one_that_this_machine_reaches():
    assert "http://127.0.0.1:9" in announced(host="0.0.0.0", port=9)
    assert "http://[::1]:9" in announced(host="::", port=9)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a tokenizer of bytes."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None, eos_token_id=256,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    about = {"eos_token": "<eos>", "chat_template": tokenizer.chat_templates["default"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


class Served:
    """``paceline serve`` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "paceline", "serve", *arguments, "--port", "0"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        self.output: list[str] = []
        self.url = self._read_url()

    def _read_url(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if match := re.search(r"Paceline serves .* at (\S+)", line):
                return match[1]
        raise AssertionError("the server ended: " + "".join(self.output))

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        with self.process:
            return self.process.wait(15)


@pytest.fixture(scope="module")
def served(model_folder: Path) -> Iterator[Served]:
    server = Served(str(model_folder), "--backend", "torch", "--threads", "1")
    yield server
    if server.process.poll() is None:
        server.stop()


MESSAGES: Any = [{"role": "user", "content": "hi"}]


def test_a_real_model_answers_the_same_streamed_and_whole(served):
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none") as client:
        options: Any = {"model": "tiny-llama", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
        whole = client.chat.completions.create(**options)
        assert whole.usage.completion_tokens == 12 or whole.choices[0].finish_reason == "stop"
        parts = [c.choices[0].delta.content for c in client.chat.completions.create(**options, stream=True)]
        assert "".join(parts) == whole.choices[0].message.content


def test_a_seed_repeats_a_sampled_answer(served):
    body = {"prompt": "abc", "max_tokens": 12, "seed": 7, "n": 2, "logprobs": 1}
    first, second = (httpx.post(served.url + "/v1/completions", json=body, timeout=30).json() for _ in range(2))
    assert first["choices"] == second["choices"]
    assert first["choices"][0]["text"] != first["choices"][1]["text"]


def test_a_real_prompt_is_scored(served):
    body = {"prompt": "abcdef", "max_tokens": 0, "echo": True, "logprobs": 1}
    logprobs = httpx.post(served.url + "/v1/completions", json=body, timeout=30).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == list("abcdef")
    assert all(-10 < value < 0 for value in logprobs["token_logprobs"][1:])


def test_metrics_of_a_real_engine(served):
    httpx.post(served.url + "/v1/completions", json={"prompt": "abc", "max_tokens": 3}, timeout=30)
    text = httpx.get(served.url + "/metrics").text
    assert re.search(r"paceline:step_time_seconds_count\{.*\} [1-9]", text)
    assert re.search(r"vllm:generation_tokens_total\{.*\} [1-9]", text)


def test_a_client_that_leaves_frees_its_sequence_in_the_engine(served):
    def running() -> float:
        text = httpx.get(served.url + "/metrics").text
        return float(re.search(r"^paceline:num_requests_running\{.*\} (\S+)$", text, re.M)[1])

    body = {"prompt": "abc", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", served.url + "/v1/completions", json=body, timeout=30) as response:
        lines = response.iter_lines()
        next(lines)
    wait_until(lambda: running() == 0, 2.0)


def test_the_server_process_does_not_import_torch(served):
    maps = Path(f"/proc/{served.process.pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert "libtorch" not in maps.read_text()


def test_sigterm_ends_server_and_engine(served):
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(served.process.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    assert children
    begin = time.monotonic()
    assert served.stop() == 0
    assert time.monotonic() - begin < 5
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
