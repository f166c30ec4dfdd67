"""Runs the load generator's process over one point, and reads the server's counters meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from paceline.bench.load.plan import Plan
from paceline.bench.load.records import ClientReport, RequestRecord
from paceline.bench.processes import END_WITH_PARENT

SAMPLE_SECONDS = 1.0  # between readings of the server's counters
START_SECONDS = 60.0  # for the load generator's own start
END_SECONDS = 30.0  # beyond the plan's own limits
LINE_BYTES = 1 << 26
WORKER = (sys.executable, "-m", "paceline.bench.load.worker")

Counters = dict[str, float]


class GeneratorError(Exception):
    """The load generator did not start or did not end: a defect, or a machine without memory."""


@dataclass(slots=True)
class PointRun:
    """What one point left. ``warm_up_error``: of the unmeasured requests. ``broken``: why the server was given up in
    the middle ("" when it was not)."""

    records: list[RequestRecord] = field(default_factory=list)
    client: ClientReport | None = None
    before: Counters = field(default_factory=dict)
    during: list[Counters] = field(default_factory=list)
    after: Counters = field(default_factory=dict)
    warm_up_error: str = ""
    broken: str = ""


async def run_plan(
    plan: Plan, counters: Callable[[], Awaitable[Counters]], ended: Callable[[], str] = lambda: ""
) -> PointRun:
    """Sends the plan from a process of its own. ``ended`` is asked every second whether the server still runs: when it
    says why not, the point ends.

    Raises ``GeneratorError``. Cancelling it ends the load generator at once.
    """
    process = await asyncio.create_subprocess_exec(
        *WORKER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES,
        start_new_session=True,  # Ctrl-C is for the command, which ends it in its own time
        preexec_fn=END_WITH_PARENT,
    )
    run = PointRun()
    try:
        await _start(process, plan, run)
        run.before = await counters()
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        watch = asyncio.create_task(_watch(process, run, counters, ended))
        try:
            async with asyncio.timeout(_limit(plan)):
                await _read(process, run)
        except TimeoutError:
            raise GeneratorError("the load generator did not end in time") from None
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        run.after = await counters()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return run


def _limit(plan: Plan) -> float:
    last = plan.duration if plan.concurrency is not None else max((r.at for r in plan.requests), default=0.0)
    if last is None:
        last = plan.timeout * (len(plan.requests) / max(1, plan.concurrency or 1) + 1)
    return last + plan.drain + plan.timeout + END_SECONDS


async def _start(process: asyncio.subprocess.Process, plan: Plan, run: PointRun) -> None:
    """Hands over the plan and waits for the end of the warm-up."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(plan.to_json().encode() + b"\n")
        async with asyncio.timeout(START_SECONDS + plan.timeout * len(plan.warm_up)):
            await process.stdin.drain()
            line = await process.stdout.readline()
    except (TimeoutError, ConnectionError, BrokenPipeError) as error:
        raise GeneratorError(f"the load generator did not start: {error!r}") from error
    if not line:
        raise GeneratorError("the load generator ended before it began (its message is above)")
    run.warm_up_error = json.loads(line)["error"]


async def _read(process: asyncio.subprocess.Process, run: PointRun) -> None:
    """Reads lines to the end, and only then looks into them."""
    assert process.stdout is not None
    lines: list[bytes] = []
    while line := await process.stdout.readline():
        lines.append(line)
    for line in lines:
        values = json.loads(line)
        if "client" in values:
            run.client = ClientReport(**values["client"])
        else:
            run.records.append(RequestRecord.of(values))
    run.records.sort(key=lambda record: record.index)
    if run.client is None:
        raise GeneratorError("the load generator broke off (its message is above)")


async def _watch(
    process: asyncio.subprocess.Process,
    run: PointRun,
    counters: Callable[[], Awaitable[Counters]],
    ended: Callable[[], str],
) -> None:
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        if why := ended():
            run.broken = why
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            return
        if reading := await counters():
            run.during.append(reading)
