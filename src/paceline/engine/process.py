"""The engine process: messages in, one report a step out.

Started by ``server.engine_client`` as ``python -m paceline.engine.process``. The first line of standard input is a
``ProcessConfig``; its end means that the parent is gone, and so does this process.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from importlib import import_module
from typing import Any, Protocol, cast

import msgspec
import zmq

from paceline.engine.machine import give_back_memory
from paceline.engine.messages import (
    Abort,
    AdapterReply,
    EngineFailed,
    EngineReady,
    EngineStats,
    LoadAdapter,
    Request,
    SequenceDelta,
    StepReport,
    UnloadAdapter,
    UseSpeculator,
)
from paceline.engine.options import EngineOptions
from paceline.errors import PacelineError

logger = logging.getLogger(__name__)

ToEngine = Request | Abort | LoadAdapter | UnloadAdapter | UseSpeculator
FromEngine = EngineReady | EngineFailed | StepReport

_PR_SET_PDEATHSIG = 1

FEW_DRAFTERS = 8  # whose counters are told after every step
STATS_EVERY = 0.1  # seconds, for more of them
IDLE_MS = 5  # with nothing to do, until memory is tidied: that takes less than half a millisecond


class ProcessConfig(msgspec.Struct, kw_only=True):
    """What the parent tells the process before anything else."""

    address: str  # ZeroMQ endpoint that the parent has bound (PAIR)
    factory: str  # "module:function" of (EngineOptions) -> (engine, EngineReady)
    options: EngineOptions
    parent_pid: int
    log_level: int = logging.INFO


class StepEngine(Protocol):
    """The part of ``engine.Engine`` that drives requests; the same in this process and in ``LLM``'s."""

    def add(self, request: Request) -> None:
        """Queues a request. Raises ``InvalidRequestError`` when it can never be served."""

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Ends one sequence of a request, or all; unknown ids are ignored."""

    def load_adapter(self, name: str, path: str, *, replace: bool = False, fingerprint: str = "") -> None:
        """Begins to load an adapter; a later report has the answer. Raises ``AdapterError``."""

    def unload_adapter(self, name: str) -> None:
        """No request may name it any more. Raises ``AdapterError``."""

    def use_speculator(self, path: str | None) -> None:
        """Begins to exchange the base model's speculator; a later report has the answer."""

    def has_work(self) -> bool: ...

    def step(self) -> StepReport:
        """Computes one step; what came of it, with ``stats``. An exception means that the engine's state can no
        longer be trusted."""

    def stats(self) -> EngineStats: ...


def build_from(factory: str, options: EngineOptions) -> tuple[StepEngine, EngineReady]:
    """Calls the factory named ``module:function``."""
    module, _, function = factory.partition(":")
    return cast(tuple[StepEngine, EngineReady], getattr(import_module(module), function)(options))


def refusal(request: Request, message: str) -> list[SequenceDelta]:
    """Ends all sequences of a request that the engine did not take."""
    return [
        SequenceDelta(request_id=request.request_id, index=index, finish_reason="error", error=message)
        for index in range(request.params.n)
        if index >= len(request.finished) or not request.finished[index]
    ]


class EngineLoop:
    """Drives an engine from a socket. Waits on the socket when there is nothing to compute."""

    def __init__(self, engine: StepEngine, socket: zmq.Socket[bytes]) -> None:
        self.engine = engine
        self.socket = socket
        self._decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
        self._encode = msgspec.msgpack.Encoder().encode
        self._refused: list[SequenceDelta] = []
        self._told = -math.inf  # when statistics went out
        self._replies: list[AdapterReply] = []
        self._untidy = True  # since there was work, freed memory may be kept

    def run(self) -> None:
        """Until the process ends."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Takes the messages that have come, computes one step if there is work, reports."""
        engine = self.engine
        if self._untidy and not engine.has_work() and not self.socket.poll(IDLE_MS):
            give_back_memory()
            self._untidy = False
        received = self.receive(wait=not engine.has_work())
        if engine.has_work():
            self._untidy = True
            report = engine.step()
            self._thin_out(report)
        elif received:
            report = StepReport(deltas=[], stats=engine.stats())
        else:
            return
        if self._refused:
            report.deltas.extend(self._refused)
            self._refused.clear()
        if self._replies:
            report.replies = [*report.replies, *self._replies]
            self._replies.clear()
        self.socket.send(self._encode(report))

    def _thin_out(self, report: StepReport) -> None:
        """Counters of drafters are for people and dashboards. Where they name many adapters they go out now and then
        only, between the steps of one burst; a report without them changes nothing about them."""
        stats, now = report.stats, time.monotonic()
        if stats is None or len(stats.drafters) <= FEW_DRAFTERS:
            return
        if now - self._told >= STATS_EVERY or not self.engine.has_work():
            self._told = now
        else:
            report.stats = msgspec.structs.replace(stats, drafters=[], decisions={})

    def receive(self, wait: bool) -> int:
        """Handles what is in the socket; ``wait``: at least one message. The number of messages."""
        count = 0
        flags = 0 if wait else zmq.NOBLOCK
        while True:
            try:
                frame = self.socket.recv(flags)
            except zmq.Again:
                return count
            self._handle(frame)
            count += 1
            flags = zmq.NOBLOCK

    def _handle(self, frame: bytes) -> None:
        try:
            message = self._decoder.decode(frame)
        except msgspec.DecodeError as error:
            self._refuse_malformed(frame, error)
            return
        if isinstance(message, Abort):
            self.engine.abort(message.request_id, message.index)
            return
        if isinstance(message, LoadAdapter | UnloadAdapter):
            self._handle_adapter(message)
            return
        if isinstance(message, UseSpeculator):
            self.engine.use_speculator(message.path)
            return
        try:
            self.engine.add(message)
        except PacelineError as error:
            self._refused += refusal(message, str(error))
        except Exception as error:
            logger.exception("request %s could not be added", message.request_id)
            self._refused += refusal(message, f"{type(error).__name__}: {error}")

    def _handle_adapter(self, message: LoadAdapter | UnloadAdapter) -> None:
        name = message.name
        try:
            if isinstance(message, UnloadAdapter):
                self.engine.unload_adapter(name)
                self._replies.append(AdapterReply(name=name))
            else:
                self.engine.load_adapter(name, message.path, replace=message.replace, fingerprint=message.fingerprint)
        except PacelineError as error:
            self._replies.append(AdapterReply(name=name, error=str(error)))

    def _refuse_malformed(self, frame: bytes, error: Exception) -> None:
        """Ends the request that a message belongs to, when that much of it can be read."""
        logger.error("malformed message of %d bytes: %s", len(frame), error)
        try:
            fields: Any = msgspec.msgpack.decode(frame)
            request_id = fields["request_id"]
            count = int(fields.get("params", {}).get("n", 1))
        except (msgspec.DecodeError, TypeError, KeyError, AttributeError, ValueError):
            return
        if isinstance(request_id, str) and fields.get("type") == Request.__name__:
            self._refused += [
                SequenceDelta(request_id=request_id, index=i, finish_reason="error", error=f"malformed: {error}")
                for i in range(min(max(count, 1), 1024))
            ]


def die_with_parent(parent_pid: int) -> None:
    """Ends this process when its parent ends, however that happens.

    The kernel's signal comes even while native code runs, on Linux only; the end of standard input comes everywhere.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)  # it ended before the line above
    threading.Thread(target=_wait_for_end_of_input, name="parent-watch", daemon=True).start()


def _wait_for_end_of_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _read_config() -> ProcessConfig:
    """The first line of standard input, byte by byte so that nothing behind it is taken."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return msgspec.json.decode(bytes(line), type=ProcessConfig)


def main() -> int:
    """Loads the model, says so, serves. Returns only on failure."""
    config = _read_config()
    die_with_parent(config.parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent drains and ends us
    logging.basicConfig(level=config.log_level, format="%(levelname)s engine: %(message)s", stream=sys.stderr)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.LINGER, 2000)  # milliseconds for the message of a failure to get out
    socket.connect(config.address)
    encode = msgspec.msgpack.encode
    try:
        engine, ready = build_from(config.factory, config.options)
    except PacelineError as error:
        socket.send(encode(EngineFailed(message=str(error))))
        context.destroy()
        return 1
    gc.collect()
    gc.freeze()  # the model's objects live as long as the process: keep them out of every collection
    socket.send(encode(ready))
    EngineLoop(engine, socket).run()
    return 0


if __name__ == "__main__":
    try:
        status = main()
    except BaseException:
        logger.exception("the engine stops")
        status = 1
    sys.stderr.flush()
    os._exit(status)  # no finalisation: native threads and the watch thread may be anywhere
