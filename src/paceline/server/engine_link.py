"""One engine process and the socket to it, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from paceline.engine.messages import EngineFailed, EngineReady, StepReport
from paceline.engine.options import EngineOptions
from paceline.engine.process import ProcessConfig, ToEngine
from paceline.errors import EngineDeadError, ModelLoadError

logger = logging.getLogger(__name__)

_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_BURST = 64  # reports handled before other tasks get their turn
_TERMINATE_S = 5.0  # from SIGTERM to SIGKILL


class EngineLink:
    """Starts an engine process, sends it messages, hands on what it reports.

    The socket is read from the loop through ZeroMQ's descriptor: ``zmq.asyncio`` costs several times as much a
    message. That descriptor signals *changes* only, so it is read until empty, and looked at again after each send.
    """

    def __init__(self, options: EngineOptions, factory: str, on_report: Callable[[StepReport], None]) -> None:
        self._options = options
        self._factory = factory
        self._on_report = on_report
        self._decoder = msgspec.msgpack.Decoder(EngineReady | EngineFailed | StepReport)
        self._encode = msgspec.msgpack.Encoder().encode
        self._process: asyncio.subprocess.Process | None = None
        self._ready: asyncio.Future[EngineReady] | None = None
        self._look_again = False
        self._folder = Path(tempfile.mkdtemp(prefix="paceline-"))  # mode 0700: nobody else can connect
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = self._context.socket(zmq.PAIR)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self._socket.setsockopt(option, 0)
        self._descriptor = int(self._socket.getsockopt(zmq.FD))

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> EngineReady:
        """Starts the process and waits until the model is loaded. Raises ``ModelLoadError`` with the engine's words
        when that fails, ``EngineDeadError`` when the process just ends."""
        assert self._socket is not None and self._process is None
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        address = f"ipc://{self._folder / 'engine'}"
        self._socket.bind(address)
        self._loop.add_reader(self._descriptor, self._on_readable)
        config = ProcessConfig(
            address=address,
            factory=self._factory,
            options=self._options,
            parent_pid=os.getpid(),
            log_level=logger.getEffectiveLevel(),
        )
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "paceline.engine.process", stdin=asyncio.subprocess.PIPE
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(config) + b"\n")  # and stays open: its end is our end
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait((self._ready, ended), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
            if ended.done() and not self._ready.done():
                self._on_readable()  # its last words may have come together with its end
            if not self._ready.done():
                raise EngineDeadError(f"the engine process ended at start: {describe_exit(ended.result())}")
            return self._ready.result()
        finally:
            ended.cancel()

    def send(self, message: ToEngine) -> None:
        """Queues a message. One to a process that is gone is dropped: its supervisor sends what matters again."""
        if self._socket is None:
            return
        with contextlib.suppress(zmq.Again):
            self._socket.send(self._encode(message), zmq.NOBLOCK)
        if not self._look_again:
            self._look_again = True
            self._loop.call_soon(self._on_readable)

    async def wait(self) -> int:
        """Waits for the process to end; its exit status, negative for a signal."""
        assert self._process is not None
        return await self._process.wait()

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def close(self) -> None:
        """Closes the socket: nothing of this process is handed on any more. Safe to repeat."""
        if self._socket is None:
            return
        if self._process is not None:
            self._loop.remove_reader(self._descriptor)
        self._socket.close(0)
        self._socket = None
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def stop(self) -> None:
        """Ends the process, politely first, and closes the link."""
        self.close()
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _TERMINATE_S)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def _on_readable(self) -> None:
        self._look_again = False
        for _ in range(_BURST):
            if self._socket is None:
                return
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._handle(frame)
            if self._socket is None or not int(self._socket.get(_EVENTS)) & _POLLIN:  # cheaper than a recv that fails
                return
        self._look_again = True
        self._loop.call_soon(self._on_readable)

    def _handle(self, frame: bytes) -> None:
        try:
            message = self._decoder.decode(frame)
            if isinstance(message, StepReport):
                self._on_report(message)
                return
        except Exception:  # no message, or one that makes no sense here
            logger.exception("the engine sent %d bytes that cannot be used; it is stopped", len(frame))
            self.kill()
            return
        assert self._ready is not None
        if self._ready.done():
            return
        if isinstance(message, EngineReady):
            self._ready.set_result(message)
        else:
            self._ready.set_exception(ModelLoadError(message.message))


def describe_exit(status: int) -> str:
    """``exit status 1``, or the signal's number with a hint for the one that the system sends when memory is short."""
    if status >= 0:
        return f"exit status {status}"
    hint = " (out of memory, or killed by hand)" if status == -9 else ""
    return f"signal {-status}{hint}"
