"""Reports and counters about speculation when the engine dies, and when their reader is slow."""

from __future__ import annotations

import asyncio
import os
import signal

import fake_engine
import tokenizers

from paceline.engine.detokenizer import TokenBytes
from paceline.engine.messages import Request
from paceline.engine.output import RequestOutput, RequestText
from paceline.sampling.speculative import Speculative

REPORT = Speculative(report=True)


def table() -> TokenBytes:
    vocabulary = {f"t{token}": token for token in range(fake_engine.VOCABULARY)}
    return TokenBytes(tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t0")))


async def consume(client, request: Request, pause_s: float = 0.0) -> RequestOutput:
    text = RequestText(request, table())
    async for delta in client.generate(request):
        text.add(delta)
        if pause_s:
            await asyncio.sleep(pause_s)
    return text.output()


async def kill_on_the_way(client, until, tokens: int) -> None:
    """Kills the engine when it has made ``tokens``, and waits for the next one."""
    await until(lambda: client.stats.generation_tokens >= tokens)
    os.kill(client.pid, signal.SIGKILL)
    await until(lambda: client.num_restarts == 1 and client.serving)


def test_a_report_goes_on_over_the_death_of_an_engine(engine_client, make_request, until, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            request = make_request(max_tokens=300, speculative=REPORT, n=2)
            task = asyncio.create_task(consume(client, request))
            await kill_on_the_way(client, until, 100)
            output = await task
            report = output.speculation
            assert report is not None
            for index, sequence in enumerate(output.outputs):
                assert sequence.token_ids == fake_engine.expected(request, index)
                assert len(sequence.sources) == 300
                own = sequence.speculation
                assert own is not None and own.accepted == 300 - sequence.sources.count("")
                assert sum(length * count for length, count in enumerate(own.histogram)) == 299
                assert own.histogram[1] >= 1, "the new engine's pass over prompt and text is an ordinary step"
            assert report.prefill_steps == 2
            assert report.steps == sum(report.histogram) >= 2 * 100

    run(scenario())


def test_a_slow_reader_gets_every_step(engine_client, make_request, run) -> None:
    async def scenario() -> None:
        async with engine_client() as client:
            output = await consume(client, make_request(max_tokens=31, speculative=REPORT), pause_s=0.01)
            report = output.speculation
            assert report is not None
            assert (report.steps, report.histogram) == (10, [0, 0, 0, 10])
            assert (report.drafted, report.accepted) == (10 * fake_engine.DRAFTED, 10 * fake_engine.ACCEPTED)

    run(scenario())


def test_counters_of_drafters_go_on_when_the_engine_restarts(engine_client, make_request, until, run) -> None:
    async def scenario() -> None:
        seen = []
        async with engine_client(on_report=lambda report: seen.append(report.stats)) as client:
            task = asyncio.create_task(consume(client, make_request(max_tokens=300, speculative=REPORT)))
            await kill_on_the_way(client, until, 100)
            await task
        drafts = [stats.drafters[0].drafts for stats in seen if stats.drafters]
        assert drafts == sorted(drafts)
        last = seen[-1]
        assert last.drafters[0].drafts >= 90
        assert last.drafters[0].draft_tokens == last.draft_tokens == last.decisions["suffix"] * fake_engine.DRAFTED
        assert last.drafters[0].accepted_per_position == [last.drafters[0].drafts] * fake_engine.ACCEPTED

    run(scenario())
