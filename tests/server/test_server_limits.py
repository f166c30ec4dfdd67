"""Who may come in, how much they may send, what happens when they leave, and how the server leaves."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from scripted_server import Script, wait_until

MESSAGES: Any = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
BODY: Any = {"messages": MESSAGES}
SLOW = {"forever": True, "pause_s": 0.002}


@pytest.fixture
def keyed(serve):
    return serve(api_keys=("first-key", "second-key"))


@pytest.mark.parametrize("key", ["first-key", "second-key"])
def test_every_configured_key_opens(keyed, key):
    response = keyed.post(CHAT, BODY, headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Bearer first-key2", "first-key", "Basic first-key", "Bearer"]
)
def test_without_a_right_key_the_door_is_closed(keyed, header):
    headers = {} if header is None else {"Authorization": header}
    for path in (CHAT, "/v1/completions", "/tokenize"):
        response = keyed.post(path, BODY, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert keyed.get("/v1/models", headers=headers).status_code == 401
    assert keyed.get("/openapi.json", headers=headers).status_code == 401
    assert not keyed.engine.requests


@pytest.mark.parametrize("path", ["/health", "/ready", "/ping", "/metrics"])
def test_probes_and_scrapers_need_no_key(keyed, path):
    assert keyed.get(path).status_code == 200


def test_a_body_over_the_limit_is_413_by_its_declared_length(serve):
    server = serve(max_body_bytes=1000)
    response = server.post("/v1/completions", {"prompt": "x" * 2000})
    assert response.status_code == 413
    assert "1000 bytes" in response.json()["error"]["message"]
    assert server.post("/v1/completions", {"prompt": "x" * 500}).status_code == 200


def test_a_chunked_body_over_the_limit_is_413_while_it_is_read(serve):
    server = serve(max_body_bytes=1000)

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    response = server.http.post(server.url + CHAT, content=chunks())
    assert response.status_code == 413


def test_a_body_that_never_ends_is_cut_off(serve):
    server = serve(max_body_bytes=1000, body_timeout_s=0.2)
    with socket.create_connection(("127.0.0.1", server.socket.getsockname()[1])) as client:
        client.settimeout(5)
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 408")


def test_browsers_of_other_origins_are_let_in_only_when_configured(serve):
    origin = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    closed = serve().http
    assert "access-control-allow-origin" not in serve().get("/health", headers=origin).headers
    server = serve(cors_origins=("https://example.org",))
    preflight = server.http.options(server.url + CHAT, headers=origin)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    assert server.get("/health", headers=origin).headers["access-control-allow-origin"] == "https://example.org"
    closed.close()


@pytest.mark.parametrize("body", [{}, {"n": 3}])
def test_a_client_that_leaves_a_stream_frees_its_sequences_at_once(serve, body):
    server = serve(Script(**SLOW))
    with server.http.stream("POST", server.url + CHAT, json={**BODY, **body, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        assert server.engine.running == 1
    wait_until(lambda: server.engine.running == 0, 1.0)
    assert server.engine.aborted
    assert server.context.metrics.finished["abort"] == body.get("n", 1)


@pytest.mark.parametrize("body", [{}, {"n": 3}])
def test_a_client_that_leaves_while_it_waits_for_a_whole_answer_frees_its_sequences(serve, body):
    server = serve(Script(**SLOW))
    with pytest.raises(httpx.ReadTimeout):
        server.post(CHAT, {**BODY, **body}, timeout=0.2)
    wait_until(lambda: server.engine.running == 0, 1.0)
    assert server.engine.aborted
    assert server.post("/tokenize", {"prompt": "x"}).status_code == 200  # nothing else was hurt


def test_a_client_that_leaves_before_the_first_token_frees_its_sequence(serve):
    server = serve(Script(text="", forever=True, pause_s=30))
    with pytest.raises(httpx.ReadTimeout):
        server.post(CHAT, {**BODY, "stream": True, "stop": "never"}, timeout=0.2)
    wait_until(lambda: server.engine.running == 0, 1.0)


def test_no_error_is_logged_for_a_client_that_leaves(serve, caplog):
    server = serve(Script(**SLOW))
    with pytest.raises(httpx.ReadTimeout):
        server.post(CHAT, BODY, timeout=0.2)
    with server.http.stream("POST", server.url + CHAT, json={**BODY, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
    wait_until(lambda: server.engine.running == 0, 1.0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_slow_reader_gets_everything(serve):
    server = serve(Script(text="abc" * 600))
    with server.http.stream("POST", server.url + CHAT, json={**BODY, "stream": True}) as response:
        time.sleep(0.3)
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    text = "".join(json.loads(line)["choices"][0]["delta"]["content"] for line in lines)
    assert text == "abc" * 600


class Background:
    """A call that runs beside the test."""

    def __init__(self, server, body: Any) -> None:
        self.response: httpx.Response | None = None
        self.server = server
        self.thread = threading.Thread(target=self._run, args=(body,))
        self.thread.start()
        wait_until(lambda: server.engine.running > 0)

    def _run(self, body: Any) -> None:
        with contextlib.suppress(httpx.HTTPError):
            self.response = httpx.post(self.server.url + CHAT, json=body, timeout=10)

    def result(self) -> httpx.Response:
        self.thread.join(10)
        assert self.response is not None, "the connection was cut"
        return self.response


@pytest.mark.parametrize("stream", [False, True])
def test_sigterm_lets_open_requests_end_and_takes_no_new_ones(serve, stream):
    server = serve(Script(text="x" * 100, pause_s=0.005), drain_timeout_s=10)
    call = Background(server, {**BODY, "stream": stream})
    server.server.handle_exit(signal.SIGTERM, None)
    wait_until(lambda: not _accepts(server.url))
    response = call.result()
    assert response.status_code == 200
    assert "[DONE]" in response.text if stream else response.json()["choices"][0]["message"]["content"] == "x" * 100
    server.thread.join(5)
    assert not server.thread.is_alive()


@pytest.mark.parametrize("stream", [False, True])
def test_requests_that_outlast_the_drain_end_with_an_error(serve, stream):
    server = serve(Script(**SLOW), drain_timeout_s=0.3)
    call = Background(server, {**BODY, "stream": stream})
    server.server.handle_exit(signal.SIGTERM, None)
    response = call.result()
    assert response.status_code == (200 if stream else 503)
    assert '"code":"shutting_down"' in response.text
    server.thread.join(5)
    assert not server.thread.is_alive()
    assert server.engine.running == 0


def test_the_second_signal_ends_everything_at_once(serve):
    server = serve(Script(**SLOW), drain_timeout_s=60)
    call = Background(server, BODY)
    server.server.handle_exit(signal.SIGTERM, None)
    wait_until(lambda: not _accepts(server.url))
    begin = time.monotonic()
    server.server.handle_exit(signal.SIGTERM, None)
    server.thread.join(5)
    assert not server.thread.is_alive()
    assert time.monotonic() - begin < 1.0
    assert call.result().status_code == 503


def _accepts(url: str) -> bool:
    try:
        httpx.get(url + "/health", timeout=1)
    except httpx.HTTPError:
        return False
    return True
