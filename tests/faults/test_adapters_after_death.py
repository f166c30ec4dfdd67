"""Adapters and the engine process: loading has answers, and the next engine has what the last one had."""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec
import pytest
from fake_engine import expected

from lora_models import TARGETS, random_tensors, write_adapter
from paceline.engine.messages import Request
from paceline.engine.options import ENGINE_FACTORY
from paceline.errors import AdapterError, EngineDeadError, ModelLoadError
from tiny_models import tiny_model


@pytest.fixture
def files(tmp_path):
    """Adapters of the fake engine: files whose content is the adapter."""
    paths = {name: tmp_path / name for name in ("one", "two", "bad", "kill")}
    for name, path in paths.items():
        path.write_text(name)
    return {name: str(path) for name, path in paths.items()}


def with_adapter(request: Request, name: str) -> Request:
    return msgspec.structs.replace(request, adapter=name)


async def kill(client, until) -> None:
    before = client.num_restarts
    os.kill(client.pid, signal.SIGKILL)
    await until(lambda: client.num_restarts > before and client.serving)


def test_an_adapter_is_loaded_used_replaced_and_unloaded(engine_client, make_request, collect, run, files) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            info = await client.load_adapter("a", files["one"])
            assert (info.name, info.path) == ("a", files["one"]) and client.adapters == {"a": info}
            request = with_adapter(make_request(), "a")
            assert (await collect(client, request)).tokens() == expected(request, adapter="one")
            await client.load_adapter("a", files["two"], replace=True)
            request = with_adapter(make_request(), "a")
            assert (await collect(client, request)).tokens() == expected(request, adapter="two")
            await client.unload_adapter("a")
            assert client.adapters == {}
            late = await collect(client, with_adapter(make_request(), "a"))
            assert late.reason() == "error" and "no adapter 'a'" in late.deltas[-1].error

    run(scenario())


def test_a_bad_adapter_is_refused_with_the_reason_and_disturbs_nobody(
    engine_client, make_request, collect, run, files
) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request(max_tokens=200)
            running = asyncio.ensure_future(collect(client, request))
            await asyncio.sleep(0.05)
            with pytest.raises(AdapterError, match="wrong shapes"):
                await client.load_adapter("bad", files["bad"])
            with pytest.raises(AdapterError, match="there is no adapter at /nowhere"):
                await client.load_adapter("x", "/nowhere")
            with pytest.raises(AdapterError, match="no adapter 'x'"):
                await client.unload_adapter("x")
            assert client.adapters == {}
            assert (await running).tokens() == expected(request)
            assert client.num_restarts == 0

    run(scenario())


def test_two_calls_for_one_name_do_not_mix(engine_client, run, files) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            first = asyncio.ensure_future(client.load_adapter("a", files["one"]))
            await asyncio.sleep(0)
            with pytest.raises(AdapterError, match="is being loaded or unloaded"):
                await client.load_adapter("a", files["two"], replace=True)
            await first
            assert client.adapters["a"].path == files["one"]

    run(scenario())


def test_whoever_asked_may_leave_before_the_answer(engine_client, until, run, files) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            call = asyncio.ensure_future(client.load_adapter("a", files["one"]))
            await asyncio.sleep(0)
            call.cancel()
            await until(lambda: "a" in client.adapters)
            await client.unload_adapter("a")

    run(scenario())


def test_the_next_engine_has_the_adapters_and_requests_go_on_with_them(
    engine_client, make_request, collect, until, run, files
) -> None:
    async def scenario() -> None:
        async with engine_client(adapters={"one": files["one"]}) as client:
            assert list(client.adapters) == ["one"]
            await client.load_adapter("two", files["two"])
            requests = [with_adapter(make_request(max_tokens=150), name) for name in ("one", "two", "one")]
            streams = [asyncio.ensure_future(collect(client, request)) for request in requests]
            await asyncio.sleep(0.1)
            await kill(client, until)
            for request, stream in zip(requests, streams, strict=True):
                assert (await stream).tokens() == expected(request, adapter=request.adapter)
            assert list(client.adapters) == ["one", "two"]
            await client.load_adapter("one", files["two"], replace=True)
            request = with_adapter(make_request(), "one")
            assert (await collect(client, request)).tokens() == expected(request, adapter="two")

    run(scenario())


def test_a_request_whose_version_died_with_the_engine_is_not_continued_with_another(
    engine_client, make_request, collect, until, run, files
) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            await client.load_adapter("a", files["one"])
            request = with_adapter(make_request(max_tokens=400), "a")
            stream = asyncio.ensure_future(collect(client, request))
            await asyncio.sleep(0.1)
            await client.load_adapter("a", files["two"], replace=True)
            await kill(client, until)
            with pytest.raises(EngineDeadError, match="the version of adapter 'a' in use"):
                await stream

    run(scenario())


def test_files_that_changed_meanwhile_are_not_taken_for_the_old_ones(
    engine_client, make_request, collect, until, run, files, tmp_path, caplog
) -> None:
    async def scenario() -> None:
        async with engine_client(adapters={"one": files["one"], "two": files["two"]}) as client:
            (tmp_path / "one").write_text("other")
            await kill(client, until)
            await until(lambda: list(client.adapters) == ["two"])
            assert "adapter one is gone" in caplog.text
            request = with_adapter(make_request(), "two")
            assert (await collect(client, request)).tokens() == expected(request, adapter="two")
            await client.load_adapter("one", files["one"])

    run(scenario())


def test_an_engine_that_dies_of_an_adapter_comes_back_without_it(
    engine_client, make_request, collect, until, run, files
) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request(max_tokens=200)
            stream = asyncio.ensure_future(collect(client, request))
            await asyncio.sleep(0.05)
            with pytest.raises(EngineDeadError, match="the engine ended"):
                await client.load_adapter("kill", files["kill"])
            with pytest.raises(EngineDeadError, match="starting"):
                await client.load_adapter("one", files["one"])
            assert (await stream).tokens() == expected(request)
            assert client.adapters == {} and client.num_restarts == 1

    run(scenario())


def test_a_bad_adapter_among_those_of_the_start_is_told_at_the_start(engine_client, run, files) -> None:
    async def scenario() -> None:
        async with engine_client(adapters={"bad": files["bad"]}):
            raise AssertionError("it started")

    with pytest.raises(ModelLoadError, match="wrong shapes"):
        run(scenario())


def test_real_adapters_survive_a_real_engine(
    engine_client, make_request, collect, until, run, tiny_checkpoint, tmp_path
) -> None:
    """PEFT folders, a tiny random model, its engine killed in the middle."""
    model = tiny_checkpoint("smollm2")
    reference = tiny_model("smollm2")
    folders = {
        name: str(write_adapter(tmp_path / name, random_tensors(reference, 2, targets=TARGETS, seed=seed), r=2))
        for seed, name in enumerate(("a", "b"))
    }
    options = {"factory": ENGINE_FACTORY, "backend": "torch", "threads": 1, "kv_blocks": 64, "adapters": folders}

    async def scenario() -> None:
        async with engine_client(str(model), **options) as client:
            made = [with_adapter(make_request(max_tokens=80, ignore_eos=True, temperature=0.0), n) for n in ("a", "b")]
            undisturbed = [(await collect(client, one)).tokens() for one in made]
            assert undisturbed[0] != undisturbed[1]
            again = [msgspec.structs.replace(one, request_id=f"{one.request_id}+") for one in made]
            streams = [asyncio.ensure_future(collect(client, one, 0.001)) for one in again]
            await until(lambda: all(opened.has_outputs for opened in client._open.values()) and client.num_open == 2)
            await kill(client, until)
            assert [(await stream).tokens() for stream in streams] == undisturbed
            assert {entry.adapter: entry.requests for entry in client.stats.adapters} == {"a": 3, "b": 3}
            with pytest.raises(AdapterError, match="there is no adapter at"):
                await client.load_adapter("c", str(tmp_path))

    run(scenario())
