"""Servers and workers as process trees: started, asked, suspended, weighed, stopped."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest
import uvloop
from fake_engines import SERVER, WORKER

from paceline.bench.client import Timeline, output_rate
from paceline.bench.peers.targets import HttpTarget, Target, TargetError, WorkerTarget, check_lengths
from paceline.bench.processes import BusyLoop, ProcessTree
from paceline.bench.sse import HttpError


def server() -> HttpTarget:
    return HttpTarget("fake", [sys.executable, "-c", SERVER, "{port}"])


def worker() -> WorkerTarget:
    return WorkerTarget("worker", [sys.executable, "-c", WORKER])


@pytest.mark.parametrize("make", [server, worker])
def test_a_target_streams_as_many_tokens_as_asked_for(make: Callable[[], Target]) -> None:
    async def life() -> None:
        target = make()
        try:
            seconds = await target.start([1, 2, 3])
            assert 0 < seconds < 30
            timelines = await asyncio.gather(*(target.generate([i], 5) for i in (1, 2, 3)))
            for timeline in timelines:
                assert timeline.tokens == len(timeline.arrivals) == 5
                assert timeline.sent < timeline.arrivals[0] <= timeline.arrivals[-1]
            memory = target.memory()
            assert 1 < memory.pss <= memory.rss < 200
        finally:
            target.stop()

    asyncio.run(life())


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_worker_can_be_started_again_and_again(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def life() -> None:
        target = worker()
        target.start_timeout = 20.0
        for _ in range(8):
            await target.start([1])
            target.stop()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(life())


def test_a_server_streams_in_time() -> None:
    async def life() -> None:
        target = server()
        try:
            await target.start([1])
            timeline = await target.generate([1, 2], 20)
            assert timeline.text.startswith(" t0 t1")
            assert timeline.total >= timeline.ttft > 0
            assert 0 < timeline.decode_rate < 500  # it sleeps 2 ms a token
        finally:
            target.stop()

    asyncio.run(life())


def test_worker_may_time_itself() -> None:
    async def life() -> None:
        target = worker()
        try:
            await target.start([1])
            assert (await target.generate([1], 3)).total == 0.5
        finally:
            target.stop()

    asyncio.run(life())


def test_refused_request_carries_the_servers_message() -> None:
    async def life() -> None:
        target = server()
        try:
            await target.start([1])
            with pytest.raises(HttpError, match=r"status 400.*unlucky prompt"):
                await target.generate([0] * 13, 5)
        finally:
            target.stop()

    asyncio.run(life())


def test_worker_that_dies_is_an_error_with_the_end_of_its_log() -> None:
    async def life() -> None:
        target = worker()
        try:
            await target.start([1])
            with pytest.raises(TargetError, match="unlucky prompt"):
                await target.generate([13], 5)
        finally:
            target.stop()

    asyncio.run(life())


def test_engine_that_ends_while_starting_is_an_error_with_the_end_of_its_log() -> None:
    target = HttpTarget("broken", [sys.executable, "-c", "import sys; sys.exit('no such model')"])
    with pytest.raises(TargetError, match="no such model"):
        asyncio.run(target.start([1]))
    target.stop()


def test_engine_that_never_gets_ready_is_given_up() -> None:
    target = HttpTarget("mute", [sys.executable, "-c", "import time; time.sleep(60)"], start_timeout=0.3)
    with pytest.raises(TargetError, match="not ready"):
        asyncio.run(target.start([1]))
    target.stop()


def test_measurement_of_another_length_is_refused() -> None:
    with pytest.raises(TargetError, match="made 4 tokens"):
        check_lengths("x", Timeline(0.0, [1.0], tokens=4, prompt_tokens=8), 8, 5)
    with pytest.raises(TargetError, match="prompt of 9"):
        check_lengths("x", Timeline(0.0, [1.0], tokens=5, prompt_tokens=9), 8, 5)
    with pytest.raises(TargetError, match="without a token"):
        check_lengths("x", Timeline(0.0), 8, 5)


def test_output_rate_counts_from_first_send_to_last_token() -> None:
    first = Timeline(sent=10.0, arrivals=[11.0, 12.0], tokens=2)
    second = Timeline(sent=10.5, arrivals=[12.0, 15.0], tokens=8)
    assert output_rate([first, second]) == 2.0


PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'while True: pass']); time.sleep(60)"


def test_the_whole_tree_is_suspended_resumed_and_stopped() -> None:
    tree = ProcessTree([sys.executable, "-c", PARENT])
    try:
        deadline = time.monotonic() + 10
        while len(tree.members()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        members = tree.members()
        assert len(members) == 2
        tree.suspend()
        assert {member.status() for member in members} == {psutil.STATUS_STOPPED}
        spent = members[1].cpu_times().user
        time.sleep(0.1)
        assert members[1].cpu_times().user == spent
        tree.resume()
        assert psutil.STATUS_STOPPED not in {member.status() for member in members}
        tree.suspend()
    finally:
        tree.stop()
    assert psutil.wait_procs(members, timeout=5)[1] == []


def test_busy_loop_ends_with_its_context() -> None:
    with BusyLoop() as loop:
        process = psutil.Process(loop._process.pid)
        assert process.is_running()
    assert not process.is_running()


ORPHAN = """
import sys, time
from paceline.bench.processes import ProcessTree
tree = ProcessTree([sys.executable, "-c", "import time; time.sleep(60)"])
tree.suspend()
print(tree.process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a parent-death signal")
def test_killing_the_benchmark_kills_suspended_engines() -> None:
    bench = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE)
    assert bench.stdout is not None
    engine = psutil.Process(int(bench.stdout.readline()))
    bench.kill()
    bench.communicate()
    assert psutil.wait_procs([engine], timeout=10)[1] == []
