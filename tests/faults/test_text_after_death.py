"""A real (tiny, random) model in the engine process: the text of disturbed streams is that of undisturbed ones."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from paceline.engine.detokenizer import TokenBytes
from paceline.engine.messages import Request
from paceline.engine.options import ENGINE_FACTORY
from paceline.engine.output import RequestOutput, RequestText
from paceline.models.tokenizer import load_tokenizer
from tiny_tokenizer import save_tiny_tokenizer


@pytest.fixture
def model(tiny_checkpoint) -> Path:
    folder = tiny_checkpoint("smollm2")
    save_tiny_tokenizer(folder)
    return folder


class Streams:
    """Consumes requests as the server does: text, stop strings, aborts."""

    def __init__(self, client, table: TokenBytes) -> None:
        self.client = client
        self.table = table
        self.num_tokens = 0
        self.shown: dict[str, list[str]] = {}

    async def consume(self, request: Request) -> RequestOutput:
        text = RequestText(request, self.table)
        shown = self.shown[request.request_id] = [""] * request.params.n
        async for delta in self.client.generate(request):
            part = text.add(delta)
            if part is None:
                continue
            self.num_tokens += len(part.token_ids)
            shown[part.index] += part.text
            if part.finish_reason is not None and delta.finish_reason is None:
                await self.client.abort(request.request_id, part.index)
        output = text.output()
        assert [sequence.text for sequence in output.outputs] == shown
        return output

    async def consume_all(self, requests: list[Request]) -> list[RequestOutput]:
        return list(await asyncio.gather(*map(self.consume, requests)))


def again(request: Request, **changes) -> Request:
    """The same request under a new id."""
    params = msgspec.structs.replace(request.params, **changes)
    return msgspec.structs.replace(request, request_id=f"{request.request_id}+", params=params)


def with_stop_strings(requests: list[Request], outputs: list[RequestOutput]) -> list[Request]:
    """Every other request gets a stop string that its text contains."""
    stopping = []
    for i, (request, output) in enumerate(zip(requests, outputs, strict=True)):
        text = output.outputs[0].text
        middle = len(text) // 2
        stopping.append(again(request, stop=(text[middle : middle + 2],) if i % 2 else ()))
    return stopping


def essence(output: RequestOutput) -> list[tuple]:
    return [
        (sequence.text, sequence.token_ids, sequence.finish_reason, sequence.stop_reason, sequence.logprobs)
        for sequence in output.outputs
    ]


def test_text_is_the_same_after_the_engine_was_killed(engine_client, make_request, until, run, model) -> None:
    async def scenario() -> None:
        table = TokenBytes((tokenizer := load_tokenizer(model)).backend, tokenizer.special_ids)
        options = {"backend": "torch", "max_rows": 24, "kv_blocks": 64, "threads": 1, "factory": ENGINE_FACTORY}
        async with engine_client(str(model), **options) as client:
            streams = Streams(client, table)
            ways = [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9, "n": 2}]
            requests = [
                make_request([1, *range(10 + i, 20 + 2 * i)], max_tokens=40, ignore_eos=True, logprobs=2, **ways[i % 3])
                for i in range(6)
            ]
            requests = with_stop_strings(requests, await streams.consume_all(requests))
            undisturbed = await streams.consume_all(requests)
            disturbed = asyncio.create_task(streams.consume_all([again(request) for request in requests]))
            for _ in range(2):
                goal = streams.num_tokens + 60
                await until(lambda goal=goal: streams.num_tokens >= goal)
                os.kill(client.pid, signal.SIGKILL)
                await until(lambda: not client.serving)
            outputs = await disturbed
            assert client.num_restarts == 2
            assert list(map(essence, outputs)) == list(map(essence, undisturbed))
            reasons = [sequence.finish_reason for output in outputs for sequence in output.outputs]
            assert {"stop", "length"} == set(reasons)

    run(scenario())
