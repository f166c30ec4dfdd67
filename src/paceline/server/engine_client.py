"""The engine as the server's event loop sees it: requests in, deltas out, whatever happens to the engine process.

When the process dies, a new one gets every unfinished request with the tokens that were received, and goes on behind
them; random streams are keyed by position, so the text is the same as without the death.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping

import msgspec

from paceline.engine.messages import (
    Abort,
    AdapterInfo,
    EngineReady,
    EngineStats,
    Request,
    SequenceDelta,
    SpeculatorInfo,
    StepReport,
)
from paceline.engine.options import ENGINE_FACTORY, EngineOptions
from paceline.errors import EngineDeadError, ModelLoadError, OverloadedError
from paceline.server.adapter_calls import AdapterCalls
from paceline.server.engine_counters import add_counters
from paceline.server.engine_link import EngineLink, describe_exit
from paceline.server.open_requests import OpenRequest
from paceline.server.recovery import LIMIT, WINDOW_S, Recovery, Verdict
from paceline.server.speculator_calls import SpeculatorCalls

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER_S = 60.0


class EngineClient:
    """Supervises the engine process and carries requests to it.

    ``on_report`` is called with every report, its ``stats`` made monotone over restarts. Everything runs on the event
    loop that called ``start``.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        factory: str = ENGINE_FACTORY,
        on_report: Callable[[StepReport], None] | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        self.ready: EngineReady | None = None
        self.dead: str | None = None
        self.stats = EngineStats()
        self._drafters = EngineStats()  # the last ones of this engine that told about drafters
        self.num_restarts = 0
        self.on_report = on_report
        self._options = options
        self._factory = factory
        self._recovery = recovery or Recovery()
        self._link: EngineLink | None = None
        self._serving = False  # the engine that runs now is ready
        self._progressed = False  # somebody got something from it
        self._adapters = AdapterCalls()
        self._speculator = SpeculatorCalls()
        self._open: dict[str, OpenRequest] = {}
        self._held: deque[OpenRequest] = deque()  # not submitted yet: one at a time after repeated deaths
        self._probed: OpenRequest | None = None  # the one that is being tried
        self._counted = EngineStats()  # counters of the engines before this one
        self._idle = asyncio.Event()
        self._idle.set()
        self._endings: deque[float] = deque(maxlen=32)
        self._supervisor: asyncio.Task[None] | None = None
        self._closing: str | None = None  # why new requests are refused

    @property
    def serving(self) -> bool:
        """Whether an engine is loaded and computing; False while it starts (again), and when it is dead."""
        return self._serving

    @property
    def pid(self) -> int | None:
        """Process id of the engine."""
        return None if self._link is None else self._link.pid

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """Adapters that requests may name, also while the engine starts again."""
        return self._adapters.known

    @property
    def num_open(self) -> int:
        """Requests that are not over."""
        return len(self._open)

    async def start(self) -> EngineReady:
        """Starts the engine and waits for the model. Raises ``ModelLoadError`` or ``EngineDeadError``."""
        try:
            ready = await self._start_engine()
        except BaseException:
            await self.close()
            raise
        self._adapters.known = {info.name: info for info in ready.adapters}
        self._options = msgspec.structs.replace(self._options, adapters={})  # later engines are told by ``restore``
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")
        return ready

    async def generate(self, request: Request) -> AsyncGenerator[SequenceDelta, None]:
        """Deltas of all sequences of ``request`` until each is over. Closing or cancelling the iterator aborts what
        is left of the request.

        Raises ``OverloadedError`` when the queue is full and ``EngineDeadError`` when there is no engine, both before
        the first delta; ``EngineDeadError`` also when the engine dies for good, or of this request, on the way.
        """
        opened = self._admit(request)
        try:
            while deltas := await opened.take():
                for delta in deltas:
                    yield delta
        finally:
            if self._open.get(opened.request_id) is opened:
                self._send_abort(opened, None)
                opened.finish(None)
                self._forget(opened)

    async def abort(self, request_id: str, index: int | None = None) -> None:
        """Ends sequence ``index`` of a request, or all of it; its iterator then ends. Unknown ids are ignored."""
        opened = self._open.get(request_id)
        if opened is None:
            return
        self._send_abort(opened, index)
        opened.finish(index)
        if opened.over:
            self._forget(opened)

    async def load_adapter(self, name: str, path: str, replace: bool = False) -> AdapterInfo:
        """Loads the adapter in the folder ``path``, in place of one that has the name if ``replace``; what runs goes
        on meanwhile. Raises ``AdapterError`` with the reason, or ``EngineDeadError``; nothing has changed then."""
        return await self._adapters.load(name, path, replace, self._serving_link().send)

    async def unload_adapter(self, name: str) -> None:
        """Requests may not name it any more; those that run go on. Raises ``AdapterError`` or ``EngineDeadError``."""
        await self._adapters.unload(name, self._serving_link().send)

    async def use_speculator(self, path: str | None) -> SpeculatorInfo | None:
        """The base model drafts with the speculator in the folder ``path`` (None: the one of the start) from now on;
        what runs goes on, with the same text. Raises ``ModelLoadError`` with the reason, or ``EngineDeadError``;
        nothing has changed then."""
        return await self._speculator.use(path, self._serving_link().send)

    async def shutdown(self, drain_s: float = 0.0) -> None:
        """Refuses new requests, gives open ones ``drain_s`` seconds to end, then ends them and the engine."""
        self._closing = "the server is shutting down"
        if drain_s > 0 and self.dead is None:
            try:
                await asyncio.wait_for(self._idle.wait(), drain_s)
            except TimeoutError:
                logger.warning("%d requests did not end within %.0f s", len(self._open), drain_s)
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._serving = False
        self._adapters.fail("the server is shutting down")
        self._speculator.fail("the server is shutting down")
        self._fail_all(EngineDeadError("the server is shutting down"))
        if self._link is not None:
            await self._link.stop()

    async def close(self) -> None:
        """``shutdown`` without waiting for anybody."""
        await self.shutdown()

    # Requests

    def _admit(self, request: Request) -> OpenRequest:
        if self.dead is not None or self._closing is not None:
            raise EngineDeadError(self.dead or self._closing or "")
        if request.request_id in self._open:
            raise ValueError(f"request id {request.request_id!r} is already in use")
        self._check_load(request)
        opened = OpenRequest(request)
        opened.adapter = None if request.adapter is None else self.adapters.get(request.adapter)
        self._open[request.request_id] = opened
        self._idle.clear()
        if self._recovery.cautious or not self._serving:
            self._held.append(opened)
            self._probe()
        else:
            self._submit(opened)
        return opened

    def _check_load(self, request: Request) -> None:
        """The engine runs some sequences and queues some: more are refused, unless there are none at all."""
        if self.ready is None or not self._open:
            return
        limit = self.ready.max_running + self.ready.max_queue
        count = sum(opened.num_unfinished for opened in self._open.values())
        if count + request.params.n > limit:
            raise OverloadedError(
                f"{count} sequences are running or waiting, the limit is {limit}; try again later", self._retry_after()
            )

    def _retry_after(self) -> float:
        """Seconds in which a request should end, from the pace of the last ones."""
        if len(self._endings) < 2:
            return 1.0
        pace = (time.monotonic() - self._endings[0]) / len(self._endings)
        return min(max(pace, 1.0), _MAX_RETRY_AFTER_S)

    def _serving_link(self) -> EngineLink:
        if self.dead is not None or self._closing is not None:
            raise EngineDeadError(self.dead or self._closing or "")
        if not self._serving or self._link is None:
            raise EngineDeadError("the engine is starting; try again in a moment")
        return self._link

    def _submit(self, opened: OpenRequest) -> None:
        assert self._link is not None
        opened.submitted = True
        self._link.send(opened.resubmission())

    def _send_abort(self, opened: OpenRequest, index: int | None) -> None:
        if self._link is not None and opened.submitted:
            self._link.send(Abort(request_id=opened.request_id, index=index))

    def _forget(self, opened: OpenRequest) -> None:
        del self._open[opened.request_id]
        self._endings.append(time.monotonic())
        if not self._open:
            self._idle.set()
        if opened is self._probed:
            self._probe()

    def _fail_all(self, error: Exception) -> None:
        for opened in list(self._open.values()):
            opened.fail(error)
            self._forget(opened)

    def _probe(self) -> None:
        """Submits what is held: all at once, or in caution the next one when the last has got something."""
        if not self._serving:
            return
        probed = self._probed
        if self._recovery.cautious and probed is not None and not (probed.progressed or probed.over):
            return
        self._probed = None
        while self._held:
            opened = self._held.popleft()
            if self._open.get(opened.request_id) is not opened:
                continue
            self._submit(opened)
            if self._recovery.cautious:
                self._probed = opened
                return
        self._recovery.cautious = False

    # Engine

    def _handle_report(self, report: StepReport) -> None:
        for delta in report.deltas:
            opened = self._open.get(delta.request_id)
            if opened is None:
                continue
            opened.accept(delta)
            self._progressed = True
            if opened.over:
                self._forget(opened)
            elif opened is self._probed:
                self._probe()
        if report.replies:
            self._adapters.take(report.replies)
        if report.speculator_replies:
            self._speculator.take(report.speculator_replies)
        if report.stats is not None:
            if report.stats.drafters or report.stats.decisions:
                self._drafters = report.stats
            else:  # not told with every step
                report.stats.drafters = self._drafters.drafters
                report.stats.decisions = self._drafters.decisions
            if self.num_restarts:
                report.stats = add_counters(report.stats, self._counted)
            self.stats = report.stats
        if self.on_report is not None:
            self.on_report(report)

    async def _start_engine(self) -> EngineReady:
        self._link = EngineLink(self._options, self._factory, self._handle_report)
        self._progressed = False
        ready = self.ready = await self._link.start()
        self._serving = True
        self._adapters.restore(self._link.send)
        self._speculator.restore(self._link.send)
        self._probed = None
        self._probe()
        return ready

    async def _supervise(self) -> None:
        """Restarts the engine whenever it ends, until there is no point."""
        assert self._link is not None
        try:
            reason = describe_exit(await self._link.wait())
            while True:
                verdict = self._bury(reason)
                if verdict.give_up:
                    break
                await asyncio.sleep(verdict.pause_s)
                self.num_restarts += 1
                reason = await self._live_once()
        except Exception as error:
            logger.exception("the engine cannot be supervised any more")
            reason = repr(error)
        self._give_up(f"the engine died {LIMIT} times within {WINDOW_S:.0f} s without progress, last with: {reason}")

    async def _live_once(self) -> str:
        """Starts an engine and waits for its end; why it ended."""
        try:
            await self._start_engine()
        except (EngineDeadError, ModelLoadError, OSError) as error:
            return str(error)
        assert self._link is not None
        logger.info("the engine runs again; %d requests go on", len(self._open))
        return describe_exit(await self._link.wait())

    def _bury(self, reason: str) -> Verdict:
        """Takes over from a dead engine what must live on."""
        assert self._link is not None
        self._serving = False
        self._link.kill()
        self._link.close()
        self._counted = self.stats
        self._drafters = EngineStats()
        verdict = self._recovery.died(self._open.values(), self._progressed)
        logger.error("the engine process ended (%s) with %d requests open", reason, len(self._open))
        if (culprit := verdict.culprit) is not None:
            logger.error("request %s is dropped: the engine died of it %d times", culprit.request_id, culprit.deaths)
            culprit.fail(EngineDeadError(f"the engine died {culprit.deaths} times while computing this request"))
            self._forget(culprit)
        self._adapters.fail(f"the engine ended: {reason}")
        self._speculator.fail(f"the engine ended: {reason}")
        self._fail_bereft()
        self._held = deque(sorted(self._open.values(), key=lambda opened: opened.deaths))
        return verdict

    def _fail_bereft(self) -> None:
        """Ends requests that cannot go on: they began with a version of their adapter that only the dead engine had."""
        for opened in list(self._open.values()):
            name = opened.adapter_name
            if name is not None and opened.has_outputs and self.adapters.get(name) is not opened.adapter:
                opened.fail(EngineDeadError(f"the engine ended, and with it the version of adapter {name!r} in use"))
                self._forget(opened)

    def _give_up(self, why: str) -> None:
        self.dead = why
        self._adapters.fail(why)
        self._speculator.fail(why)
        logger.critical(why)
        self._fail_all(EngineDeadError(why))
