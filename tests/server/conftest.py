"""Servers with a scripted engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted_server import FakeEngine, LiveServer, Script, byte_tokenizer

from paceline.models.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return byte_tokenizer()


@pytest.fixture
def serve(tokenizer: Tokenizer) -> Iterator[Callable[..., LiveServer]]:
    """Starts servers with a script and configuration of the test's choice; stops them at its end."""
    servers: list[LiveServer] = []

    def start(script: Script | None = None, loaded: bool = True, **config: Any) -> LiveServer:
        server = LiveServer(FakeEngine(script or Script()), tokenizer, loaded, **config)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        with contextlib.suppress(Exception):
            server.stop()


@pytest.fixture(scope="module")
def shared(tokenizer: Tokenizer) -> Iterator[LiveServer]:
    """One server for tests that change nothing but the script (reset before each by ``live``)."""
    server = LiveServer(FakeEngine(), tokenizer)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def live(shared: LiveServer) -> LiveServer:
    """The shared server with a fresh script and nothing recorded."""
    shared.engine.script = Script()
    shared.engine.requests.clear()
    shared.engine.aborted.clear()
    return shared
