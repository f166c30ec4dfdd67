"""Servers of a script, started for a test."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from load_servers import command

from paceline.bench.peers.targets import free_port


@pytest.fixture
def fake_server() -> Iterator[Callable[..., int]]:
    """Starts scripted servers; gives a port each."""
    started = []

    def start(**options: Any) -> int:
        port = free_port()
        started.append(subprocess.Popen([part.replace("{port}", str(port)) for part in command(**options)]))
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return port
            time.sleep(0.01)
        raise AssertionError("the scripted server did not start")

    yield start
    for process in started:
        process.kill()
        process.wait()
