"""Faults while drafts are open: texts are those of an undisturbed engine without speculation, and nothing is kept."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import eager_engine
import msgspec
import pytest
from test_text_after_death import Streams, again, essence

from paceline.engine.detokenizer import TokenBytes
from paceline.engine.factory import build_engine
from paceline.engine.messages import Request
from paceline.engine.options import ENGINE_FACTORY, EngineOptions
from paceline.engine.output import RequestOutput, RequestText
from paceline.errors import ModelLoadError
from paceline.models.tokenizer import Tokenizer, load_tokenizer
from paceline.speculation.options import SpeculationOptions
from tiny_tokenizer import save_tiny_tokenizer

OFF = SpeculationOptions(speculate="off")
TINY = {"backend": "torch", "max_rows": 24, "kv_blocks": 64, "threads": 1}
WAYS = [{"temperature": 0.0}, {"temperature": 1.0, "top_k": 3}, {"temperature": 0.3, "top_p": 0.9, "n": 2}]
LIST = "apples, pears, plums, cherries, grapes, lemons, oranges, melons, peaches, figs, dates, olives, nuts and berries"
COPIES = [
    f"Repeat this sentence word for word, twice: {order} {LIST}."
    for order in ("We buy", "She sells", "They grow", "I like")
]


@pytest.fixture
def model(tiny_checkpoint) -> Path:
    folder = tiny_checkpoint("smollm2")
    save_tiny_tokenizer(folder)
    return folder


def table_of(tokenizer: Tokenizer) -> TokenBytes:
    return TokenBytes(tokenizer.backend, tokenizer.special_ids)


def written(model: str, requests: list[Request], table: TokenBytes, **options) -> list:
    """What an undisturbed engine without speculation writes, in this process."""
    engine, _ = build_engine(EngineOptions(model=model, speculation=OFF, **options))
    texts = {request.request_id: RequestText(request, table) for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work():
        for delta in engine.step().deltas:
            texts[delta.request_id].add(delta)
    assert engine.stats().draft_tokens == 0
    return [essence(text.output()) for text in texts.values()]


async def written_over_deaths(client, until, requests: list[Request], table: TokenBytes, deaths: int) -> list:
    """What the engine writes when it is killed after every sixth of the text. It drafts, before and after."""
    assert client.ready.drafters == ["grammar", "suffix", "turbo"]
    streams = Streams(client, table)
    total = sum(request.params.n * (request.params.max_tokens or 0) for request in requests)
    task = asyncio.create_task(streams.consume_all(requests))
    for death in range(deaths):
        goal = total * (death + 1) // 6
        await until(lambda goal=goal: streams.num_tokens >= goal, 60.0)
        assert client.serving and not task.done()
        os.kill(client.pid, signal.SIGKILL)
        await until(lambda: not client.serving)
    before = client.stats.accepted_tokens
    outputs: list[RequestOutput] = await task
    assert client.num_restarts == deaths
    assert 0 < before < client.stats.accepted_tokens
    return list(map(essence, outputs))


def test_text_is_that_without_speculation_after_the_engine_was_killed(
    engine_client, make_request, until, run, model
) -> None:
    async def scenario() -> None:
        table = table_of(load_tokenizer(model))
        requests = [
            make_request([1, *range(10 + i, 20 + 2 * i)], max_tokens=60, ignore_eos=True, logprobs=2, **WAYS[i % 3])
            for i in range(6)
        ]
        expected = written(str(model), requests, table, **TINY)
        async with engine_client(str(model), factory=eager_engine.FACTORY, **TINY) as client:
            assert await written_over_deaths(client, until, requests, table, deaths=2) == expected

    run(scenario())


@pytest.mark.model
def test_text_of_the_default_model_is_that_without_speculation_after_the_engine_was_killed(
    engine_client, make_request, until, default_model
) -> None:
    tokenizer = load_tokenizer(default_model)

    async def scenario() -> None:
        prompts = [tokenizer.apply_chat_template([{"role": "user", "content": text}]) for text in COPIES]
        requests = [
            make_request(tokenizer.encode(prompt, add_special_tokens=False), max_tokens=90, logprobs=1, **WAYS[i % 3])
            for i, prompt in enumerate(prompts)
        ]
        options = {"kv_blocks": 128, "threads": 2}
        expected = written("", requests, table_of(tokenizer), **options)
        async with engine_client("", factory=ENGINE_FACTORY, **options) as client:
            assert await written_over_deaths(client, until, requests, table_of(tokenizer), deaths=1) == expected

    asyncio.run(asyncio.wait_for(scenario(), 200))


def test_clients_that_leave_and_sequences_that_are_aborted_leave_nothing(
    engine_client, make_request, until, run, model
) -> None:
    async def scenario() -> None:
        table = table_of(load_tokenizer(model))
        stay = [make_request([1, *range(10, 20 + i)], max_tokens=80, ignore_eos=True, **WAYS[i % 3]) for i in range(3)]
        go = [make_request([1, *range(9, 20 + i)], max_tokens=100, ignore_eos=True, **WAYS[i % 3]) for i in range(6)]
        partly = make_request([1, *range(40, 60)], max_tokens=80, ignore_eos=True, temperature=0.5, n=3)
        expected = written(str(model), [*stay, partly], table, **TINY)
        async with engine_client(str(model), factory="watched_engine:build", **TINY) as client:
            streams = Streams(client, table)
            staying = asyncio.create_task(streams.consume_all(list(map(again, stay))))
            leaving = [asyncio.create_task(leave(client, request, 10 + 5 * i)) for i, request in enumerate(go)]
            tokens = await abort_one(client, partly, index=1, after=20)
            outputs = await staying
            await asyncio.gather(*leaving)
            assert list(map(essence, outputs)) == expected[: len(stay)]
            whole = [token_ids for _, token_ids, *_ in expected[-1]]
            assert (tokens[0], tokens[2]) == (whole[0], whole[2])
            assert 20 <= len(tokens[1]) < 80 and tokens[1] == whole[1][: len(tokens[1])]
            await until(lambda: client.stats.running == 0 and client.stats.decisions["kept"] == 0)
            assert client.stats.accepted_tokens > 0
            assert client.num_open == 0 and client.stats.kv_blocks_used == 0 == client.stats.waiting

    run(scenario())


async def leave(client, request: Request, after: int) -> None:
    """A client that goes when it has ``after`` tokens."""
    count = 0
    stream = client.generate(request)
    async for delta in stream:
        count += len(delta.token_ids)
        if count >= after:
            break
    await stream.aclose()
    assert count >= after


async def abort_one(client, request: Request, index: int, after: int) -> list[list[int]]:
    """Tokens of a request's sequences, of which one is aborted when it has ``after``."""
    tokens: list[list[int]] = [[] for _ in range(request.params.n)]
    aborted = False
    async for delta in client.generate(request):
        tokens[delta.index] += delta.token_ids
        if delta.index == index and len(tokens[index]) >= after and not aborted:
            aborted = True
            await client.abort(request.request_id, index)
    assert aborted
    return tokens


def test_a_draft_model_of_another_vocabulary_is_told_before_anything_is_served(
    engine_client, run, model, tiny_checkpoint, tmp_path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_checkpoint("llama").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    save_tiny_tokenizer(other)
    content = msgspec.json.decode((other / "tokenizer.json").read_bytes())
    vocabulary = content["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (other / "tokenizer.json").write_bytes(msgspec.json.encode(content))

    async def scenario() -> None:
        with pytest.raises(ModelLoadError, match="other has another tokenizer than the target"):
            wish = SpeculationOptions(draft_model=str(other))
            async with engine_client(str(model), factory=ENGINE_FACTORY, speculation=wish, **TINY):
                raise AssertionError("it was served")

    run(scenario())
