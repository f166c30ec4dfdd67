"""Programs of others, unchanged, against a real server on the default model.

Each is looked for in a virtual environment of its own, named by a variable, because none of them belongs in this one:
``PACELINE_TEST_LM_EVAL_PYTHON=/path/venv/bin/python`` and so on; a test without its client is skipped and says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from paceline.bench.peers.targets import free_port
from paceline.bench.processes import ProcessTree
from paceline.models.tokenizer import load_tokenizer

SECONDS = 60  # most for a client's run

#: Takes what follows the client's program on the command line, and more variables; gives what it printed.
Run = Callable[..., str]


@pytest.fixture(scope="session")
def server(default_model: Path) -> Iterator[str]:
    """The URL of a server on the default model."""
    port = free_port()
    tree = ProcessTree([sys.executable, "-m", "paceline", "serve", str(default_model), "--port", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while not _ready(url):
            assert time.monotonic() < end and tree.process.poll() is None, f"no server:\n{tree.tail()}"
            time.sleep(0.1)
        yield url
    finally:
        tree.stop()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def served_name(server: str) -> str:
    return str(httpx.get(f"{server}/v1/models").json()["data"][0]["id"])


@pytest.fixture(scope="session")
def tokenizer_folder(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's tokenizer in Hugging Face form: some clients count tokens themselves."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = load_tokenizer(default_model)
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer.special_tokens}
    settings["chat_template"] = tokenizer.chat_templates["default"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def client_run(tmp_path: Path) -> Callable[[str, str], Run]:
    """Finds a client by its variable, and the program beside that Python; skips the test without it."""

    def find(variable: str, program: str) -> Run:
        python = os.environ.get(variable)
        if not python:
            pytest.skip(f"{variable} is not set: the Python of an environment with {program}")
        path = Path(python).parent / program
        if not path.is_file():
            pytest.skip(f"{variable} is {python}, and there is no {program} beside it")

        def run(arguments: Sequence[str], **variables: str) -> str:
            environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "NO_COLOR": "1", **variables}
            done = subprocess.run(
                [str(path), *arguments],
                env=environment,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-4000:]
            return done.stdout

        return run

    return find


@pytest.fixture
def refused(server: str) -> Callable[[], int]:
    """How many requests the server has answered with an error since the test began: a client's retries hide them."""

    def errors() -> int:
        total = 0.0
        for line in httpx.get(f"{server}/metrics").text.splitlines():
            if line.startswith("paceline:http_requests_total") and 'status="2' not in line:
                total += float(line.rpartition(" ")[2])
        return int(total)

    before = errors()
    return lambda: errors() - before
