"""The engine process dies; requests go on behind the tokens they have, or end with a clear error."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_engine
import msgspec
import psutil
import pytest

from paceline.engine.messages import SequenceDelta, StepReport
from paceline.errors import EngineDeadError, ModelLoadError
from paceline.server.recovery import Recovery


async def kill_repeatedly(client, until, times: int, tokens_between: int = 5) -> None:
    """Kills the engine while it computes, ``times`` times."""
    for _ in range(times):
        goal = client.stats.generation_tokens + tokens_between
        await until(lambda goal=goal: client.serving and client.stats.generation_tokens >= goal)
        restarts = client.num_restarts
        os.kill(client.pid, signal.SIGKILL)
        await until(lambda restarts=restarts: client.num_restarts > restarts)


def test_killed_engine_loses_and_repeats_no_token(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            requests = [make_request(max_tokens=120 + 10 * i, n=1 + i % 3, logprobs=0) for i in range(12)]
            consumers = [asyncio.create_task(collect(client, request)) for request in requests]
            await kill_repeatedly(client, until, times=2)
            results = await asyncio.gather(*consumers)
            assert client.num_restarts == 2
            for request, result in zip(requests, results, strict=True):
                for index in range(request.params.n):
                    assert result.tokens(index) == fake_engine.expected(request, index)
                    assert result.reason(index) == "length"
                logprobs = [entry.token_id for delta in result.deltas for entry in delta.logprobs or []]
                assert logprobs == [token for delta in result.deltas for token in delta.token_ids]

    run(scenario())


def test_facts_of_the_first_delta_are_told_once(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request(max_tokens=100, prompt_logprobs=0)
            consumer = asyncio.create_task(collect(client, request))
            await kill_repeatedly(client, until, times=1)
            deltas = (await consumer).deltas
            assert [delta.queue_time is not None for delta in deltas] == [True] + [False] * (len(deltas) - 1)
            assert sum(delta.num_cached_tokens for delta in deltas) == 3
            assert sum(delta.prompt_logprobs is not None for delta in deltas) == 1

    run(scenario())


def test_a_sequence_ended_by_its_consumer_is_not_resumed(engine_client, make_request, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request(max_tokens=150, n=2)
            tokens: dict[int, list[int]] = {0: [], 1: []}
            killed = False
            async for delta in client.generate(request):
                tokens[delta.index] += delta.token_ids
                if len(tokens[0]) == 10 and delta.index == 0:
                    await client.abort(request.request_id, 0)
                if len(tokens[1]) > 20 and not killed:
                    killed = True
                    os.kill(client.pid, signal.SIGKILL)
            assert tokens[1] == fake_engine.expected(request, 1)
            assert tokens[0] == fake_engine.expected(request, 0)[: len(tokens[0])]
            assert len(tokens[0]) < 20
            await until(lambda: client.stats.running == 0)

    run(scenario())


def test_counters_do_not_fall_when_the_engine_restarts(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        seen: list[int] = []
        async with engine_client(on_report=lambda report: seen.append(report.stats.generation_tokens)) as client:
            request = make_request(max_tokens=100)
            consumer = asyncio.create_task(collect(client, request))
            await kill_repeatedly(client, until, times=1, tokens_between=30)
            await consumer
            assert seen == sorted(seen)
            assert seen[-1] >= 100

    run(scenario())


def test_requests_that_come_while_the_engine_restarts_wait_for_it(
    engine_client, make_request, collect, until, run
) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            os.kill(client.pid, signal.SIGKILL)
            await until(lambda: not client.serving)
            request = make_request()
            assert (await collect(client, request)).tokens() == fake_engine.expected(request)

    run(scenario())


def test_model_that_cannot_be_loaded_is_reported_in_the_engines_words(engine_client, run) -> None:
    async def scenario() -> None:
        with pytest.raises(ModelLoadError, match="there is no such model"):
            async with engine_client("missing"):
                pass

    run(scenario())


def test_engine_that_dies_at_start_is_reported_with_its_exit_status(engine_client, run) -> None:
    async def scenario() -> None:
        with pytest.raises(EngineDeadError, match="exit status 7"):
            async with engine_client("crash"):
                pass

    run(scenario())


def test_engine_that_cannot_restart_ends_open_requests_and_refuses_new_ones(
    engine_client, make_request, collect, until, run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        model = tmp_path / "model"
        model.touch()
        async with engine_client(str(model)) as client:
            request = make_request(max_tokens=100_000)
            consumer = asyncio.create_task(collect(client, request))
            await until(lambda: client.stats.generation_tokens > 3)
            model.unlink()
            os.kill(client.pid, signal.SIGKILL)
            with pytest.raises(EngineDeadError, match="died 3 times"):
                await consumer
            assert client.dead is not None and client.num_open == 0
            with pytest.raises(EngineDeadError, match="died 3 times"):
                await collect(client, make_request())

    run(scenario())


@pytest.mark.parametrize("poison", [[fake_engine.DIE_ON_ADD], [fake_engine.DIE_AT, 4]])
def test_a_request_that_kills_the_engine_is_dropped_and_the_others_go_on(
    poison, engine_client, make_request, collect, run
) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            others = [make_request(max_tokens=300) for _ in range(4)]
            consumers = [asyncio.create_task(collect(client, request)) for request in others]
            await asyncio.sleep(0.05)
            with pytest.raises(EngineDeadError, match="while computing this request"):
                await collect(client, make_request(poison))
            late = make_request()
            assert (await collect(client, late)).tokens() == fake_engine.expected(late)
            for request, consumer in zip(others, consumers, strict=True):
                assert (await consumer).tokens() == fake_engine.expected(request)
            assert client.dead is None

    run(scenario())


def test_an_exception_in_a_step_restarts_the_engine(engine_client, make_request, collect, run, capfd) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            other = make_request(max_tokens=200)
            consumer = asyncio.create_task(collect(client, other))
            await asyncio.sleep(0.05)
            with pytest.raises(EngineDeadError):
                await collect(client, make_request([fake_engine.RAISE_IN_STEP]))
            assert (await consumer).tokens() == fake_engine.expected(other)

    run(scenario())
    assert "RuntimeError: the step went wrong" in capfd.readouterr().err


def test_many_deaths_with_progress_in_between_are_not_the_end(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            requests = [make_request(max_tokens=400) for _ in range(3)]
            consumers = [asyncio.create_task(collect(client, request)) for request in requests]
            await kill_repeatedly(client, until, times=5)
            for request, consumer in zip(requests, consumers, strict=True):
                assert (await consumer).tokens() == fake_engine.expected(request)

    run(scenario())


def test_deaths_far_apart_do_not_add_up(make_request) -> None:
    now = [0.0]
    recovery = Recovery(lambda: now[0])
    for _ in range(10):
        now[0] += 61.0
        assert not recovery.died([], progressed=False).give_up
        assert not recovery.cautious


def test_engine_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio\n"
        "from paceline.server.engine_client import EngineClient\n"
        "from paceline.engine.options import EngineOptions\n"
        "async def main():\n"
        "    client = EngineClient(EngineOptions(), factory='fake_engine:build')\n"
        "    await client.start()\n"
        "    print(client.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    engine = psutil.Process(int(parent.stdout.readline()))
    assert engine.is_running()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5.0
    while engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_an_idle_engine_takes_no_processor_time(engine_client, make_request, collect, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            await collect(client, make_request(max_tokens=3))
            engine = psutil.Process(client.pid)
            await asyncio.sleep(0.05)
            before = engine.num_ctx_switches()
            await asyncio.sleep(0.5)
            after = engine.num_ctx_switches()
            assert after.voluntary - before.voluntary < 10

    run(scenario())


def test_ctrl_c_is_the_parents_business(engine_client, make_request, collect, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            os.kill(client.pid, signal.SIGINT)
            request = make_request()
            assert (await collect(client, request)).tokens() == fake_engine.expected(request)
            assert client.num_restarts == 0

    run(scenario())


def test_a_report_about_a_sequence_that_does_not_exist_restarts_the_engine(
    engine_client, make_request, collect, until, run
) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request(max_tokens=100)
            consumer = asyncio.create_task(collect(client, request))
            await until(lambda: client.stats.generation_tokens > 3)
            wrong = SequenceDelta(request_id=request.request_id, index=7, token_ids=[1])
            client._link._handle(msgspec.msgpack.encode(StepReport(deltas=[wrong])))
            assert (await consumer).tokens() == fake_engine.expected(request)
            assert client.num_restarts == 1

    run(scenario())


def test_closing_ends_the_engine_and_removes_its_folder(engine_client, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            engine = psutil.Process(client.pid)
            folder = client._link._folder
            assert folder.exists() and folder.stat().st_mode & 0o077 == 0
        assert not engine.is_running()
        assert not folder.exists()

    run(scenario())
