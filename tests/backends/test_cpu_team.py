"""The thread team: the same bits and no stalls beside busy neighbours, no threads left behind, no GIL held."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cpu_programs import VARIANTS, RowFunction, dense, noise, one_sequence, open_backend, quantized
from test_cpu_models import make_runner, reference, tokens

from paceline import _cpu

VARIANT = VARIANTS[0]


@pytest.fixture
def busy_neighbours() -> Iterator[None]:
    """As many processes that never rest as there are cores, and one more."""
    cores = len(os.sched_getaffinity(0))
    code = "print(flush=True)\nwhile True: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(cores + 1)]
    try:
        for hog in hogs:
            assert hog.stdout is not None
            hog.stdout.readline()
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.communicate()


def thread_count() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_results_and_progress_beside_busy_neighbours(busy_neighbours: None) -> None:
    """More threads than cores, none of them free. A team whose threads wait for each other at every stage needs a
    time slice a stage, and these steps have thousands."""
    expected = reference("llama", VARIANT)
    runner = make_runner("llama", VARIANT, threads=4)
    start = time.monotonic()
    found = [runner.step([(0, tokens(0)[:10])])]
    found += [runner.step([(0, [token])]) for token in tokens(0)[10:]]
    assert time.monotonic() - start < 10
    assert torch.equal(torch.cat(found), expected)


def test_teams_and_programs_come_and_go() -> None:
    """A worker may still be busy with a program's memory when its run is over: destruction waits for it."""
    inputs, weight = noise(9, 64), quantized("q4", 64, 64)
    expected = RowFunction(VARIANT, inputs, 64, lambda ops, x, b: ops.linear(x, b.matrix([weight])))()
    before = thread_count()
    for threads in (1, 2, 3, 4) * 20:
        function = RowFunction(
            VARIANT, inputs, 64, lambda ops, x, b: ops.linear(x, b.matrix([weight])), threads=threads
        )
        assert torch.equal(function(), expected)
        del function
    assert thread_count() <= before


def test_many_programs_share_a_team() -> None:
    backend = open_backend(VARIANT, threads=3)
    table, head = backend.matrix([dense(noise(9, 64))]), backend.matrix([quantized("q4", 64, 64)])
    expected = None
    for rows in range(1, 100):
        program = backend.compile(lambda ops: ops.logits(ops.select(ops.embed(table)), head), rows)
        found = program.run(one_sequence([row % 9 for row in range(min(rows, 9))])).logits
        expected = found.clone() if rows == 9 else expected
        assert expected is None or torch.equal(found, expected)


def test_a_plain_read_of_memory_gives_the_same_sum_on_any_number_of_threads() -> None:
    buffer = _cpu.StreamBuffer(3 << 20)
    sums = {buffer.read(_cpu.Team(threads)) for threads in (1, 2, 3) for _ in range(50)}
    assert len(sums) == 1


def test_waking_a_team_that_has_nothing_to_do_is_harmless() -> None:
    team = _cpu.Team(3)
    for _ in range(100):
        team.wake()
    assert _cpu.StreamBuffer(1 << 20).read(team) == _cpu.StreamBuffer(1 << 20).read(_cpu.Team(1))


def test_an_idle_team_takes_no_time() -> None:
    function = RowFunction(VARIANT, noise(9, 64), 64, lambda ops, x, backend: ops.add(x, x), threads=4)
    function()
    time.sleep(0.05)
    used = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - used < 0.1


def test_python_runs_while_a_step_runs() -> None:
    """A second thread counts; it could not while the interpreter's lock is held."""
    width, rows, steps = 1024, 256, 3
    weight = dense(noise(width, width))
    function = RowFunction(VARIANT, noise(rows, width), width, lambda ops, x, b: ops.linear(x, b.matrix([weight])),
                           max_rows=rows)  # fmt: skip
    batch = one_sequence(range(rows))
    ticks, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        gained = []
        for _ in range(steps):
            before = ticks[0]
            function.program.run(batch)
            gained.append(ticks[0] - before)
    finally:
        stop.set()
        counter.join()
    assert max(gained) > 50, gained
