"""Consumers that go away, are slow, are too many, or send nonsense."""

from __future__ import annotations

import asyncio

import fake_engine
import msgspec
import pytest

from paceline.engine.messages import Request
from paceline.errors import EngineDeadError, OverloadedError


def test_closing_the_iterator_frees_the_sequence(engine_client, make_request, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            stream = client.generate(make_request(max_tokens=100_000))
            await anext(stream)
            assert client.stats.running == 1
            await stream.aclose()
            steps = client.stats.steps
            await until(lambda: client.stats.running == 0)
            assert client.stats.steps - steps <= 3
            assert client.num_open == 0

    run(scenario())


def test_a_cancelled_consumer_frees_the_sequence(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            for prompt in (None, [fake_engine.HANG]):
                consumer = asyncio.create_task(collect(client, make_request(prompt, max_tokens=100_000)))
                await until(lambda: client.stats.running == 1)
                consumer.cancel()
                await until(lambda: client.stats.running == 0)
                assert client.stats.running == 0 and client.num_open == 0

    run(scenario())


def test_an_iterator_that_is_never_started_sends_nothing(engine_client, make_request, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            stream = client.generate(make_request())
            await stream.aclose()
            assert client.num_open == 0

    run(scenario())


def test_aborting_a_request_ends_its_iterator(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request(max_tokens=100_000, n=2)
            consumer = asyncio.create_task(collect(client, request))
            await until(lambda: client.stats.generation_tokens > 4)
            await client.abort(request.request_id)
            await client.abort("unknown")
            result = await consumer
            assert result.reason() is None
            await until(lambda: client.stats.running == 0)

    run(scenario())


def test_a_slow_consumer_gets_everything_in_fewer_deltas_and_delays_nobody(
    engine_client, make_request, collect, run
) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            slow, fast = make_request(max_tokens=200, logprobs=0, n=2), make_request(max_tokens=200)
            slow_consumer = asyncio.create_task(collect(client, slow, pause_s=0.05))
            assert (await collect(client, fast)).tokens() == fake_engine.expected(fast)
            assert not slow_consumer.done()
            result = await slow_consumer
            for index in range(2):
                assert result.tokens(index) == fake_engine.expected(slow, index)
                assert result.reason(index) == "length"
            assert len(result.deltas) < 100
            for delta in result.deltas:
                assert [entry.token_id for entry in delta.logprobs] == delta.token_ids

    run(scenario())


def test_more_than_running_and_queue_hold_is_refused(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        async with engine_client("2", max_queue=3) as client:
            consumers = [asyncio.create_task(collect(client, make_request(max_tokens=100_000))) for _ in range(5)]
            await until(lambda: client.num_open == 5)
            with pytest.raises(OverloadedError, match="limit is 5") as refused:
                await collect(client, make_request())
            assert refused.value.retry_after_s >= 1
            consumers[0].cancel()
            await until(lambda: client.num_open == 4)
            await collect(client, make_request(max_tokens=2))
            for consumer in consumers:
                consumer.cancel()
            await until(lambda: client.num_open == 0)
            await collect(client, make_request(n=7, max_tokens=2))

    run(scenario())


@pytest.mark.parametrize(
    ("prompt", "message"),
    [(fake_engine.REFUSE, "the limit is 8"), (fake_engine.RAISE_ON_ADD, "RuntimeError: the tokens are not")],
)
def test_a_request_that_cannot_be_added_ends_alone(prompt, message, engine_client, make_request, collect, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            other = make_request(max_tokens=100)
            consumer = asyncio.create_task(collect(client, other))
            result = await collect(client, make_request([prompt], n=2))
            assert [(delta.finish_reason, delta.index) for delta in result.deltas] == [("error", 0), ("error", 1)]
            assert all(message in delta.error for delta in result.deltas)
            assert (await consumer).tokens() == fake_engine.expected(other)
            assert client.num_restarts == 0

    run(scenario())


class Raw(msgspec.Struct):
    """Stands in for a message: encodes as whatever it holds."""

    content: object


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xc1nonsense", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode({"type": "Unknown"}), b"\x80" * 5000],
)
def test_malformed_messages_do_not_disturb_the_engine(frame, engine_client, make_request, collect, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            client._link._socket.send(frame)
            request = make_request()
            assert (await collect(client, request)).tokens() == fake_engine.expected(request)
            assert client.num_restarts == 0

    run(scenario())


def test_a_malformed_request_whose_id_can_be_read_ends_with_an_error(engine_client, make_request, collect, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request()
            broken = Request(request_id=request.request_id, prompt_ids="text", params=request.params, arrival_time=0.0)  # type: ignore[arg-type]
            result = await collect(client, broken)
            assert result.reason() == "error"
            assert "malformed" in result.deltas[0].error

    run(scenario())


def test_a_malformed_report_restarts_the_engine(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request(max_tokens=100)
            consumer = asyncio.create_task(collect(client, request))
            await until(lambda: client.stats.generation_tokens > 3)
            client._link._handle(b"\xc1")
            assert (await consumer).tokens() == fake_engine.expected(request)
            assert client.num_restarts == 1

    run(scenario())


def test_shutdown_lets_open_requests_end_and_refuses_new_ones(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request(max_tokens=100)
            consumer = asyncio.create_task(collect(client, request))
            await until(lambda: client.stats.generation_tokens > 3)
            closing = asyncio.create_task(client.shutdown(drain_s=10))
            await asyncio.sleep(0.01)
            with pytest.raises(EngineDeadError, match="shutting down"):
                await collect(client, make_request())
            assert (await consumer).tokens() == fake_engine.expected(request)
            await closing

    run(scenario())


def test_shutdown_ends_requests_that_take_too_long(engine_client, make_request, collect, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            consumer = asyncio.create_task(collect(client, make_request(max_tokens=100_000)))
            await until(lambda: client.stats.generation_tokens > 3)
            await client.shutdown(drain_s=0.05)
            with pytest.raises(EngineDeadError, match="shutting down"):
                await consumer

    run(scenario())
