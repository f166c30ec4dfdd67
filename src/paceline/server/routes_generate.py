"""``/v1/completions`` and ``/v1/chat/completions``."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from paceline.engine.detokenizer import TokenBytes
from paceline.engine.messages import Request
from paceline.models.tokenizer import Tokenizer
from paceline.sampling.params import SamplingParams
from paceline.server import conversion
from paceline.server.answers import Answer, ChatChunks, CompletionChunks, Echo, chat_answer, completion_answer
from paceline.server.context import ServerContext, off_loop
from paceline.server.disconnect import WhileConnected
from paceline.server.generation import Generation
from paceline.server.intake import read_body
from paceline.server.logprobs import TokenNames
from paceline.server.schemas import ChatCompletionRequest, CompletionRequest, SamplingBody
from paceline.server.sse import EventStream, JsonAnswer


def routes(context: ServerContext) -> APIRouter:
    """The generating endpoints of ``context``."""
    router = APIRouter(prefix="/v1")

    @router.post("/completions")
    async def completions(http: HttpRequest) -> Response:
        return await _completions(context, http)

    @router.post("/chat/completions")
    async def chat_completions(http: HttpRequest) -> Response:
        return await _chat_completions(context, http)

    return router


async def _completions(context: ServerContext, http: HttpRequest) -> Response:
    arrived = time.monotonic()
    body = await read_body(http, context, CompletionRequest)
    ready, tokenizer, table = context.loaded()
    params = conversion.completion_params(body, tokenizer, ready.vocab_size)
    conversion.check_drafters(params, ready)
    prompts = conversion.prompts_of(body)
    ids = await off_loop(
        sum(map(len, prompts)),
        lambda: conversion.encode_prompts(prompts, tokenizer, ready.vocab_size, body.add_special_tokens),
    )
    for prompt_ids in ids:
        conversion.check_length(prompt_ids, params, ready, "prompt")
    only = conversion.only_scores(body)
    echo = Echo(texts=_texts(prompts, tokenizer), only=only) if body.echo else Echo()
    answer = _answer(context, table, "cmpl-", body, params.logprobs, body.prompt_logprobs)
    generation = _generation(context, table, answer, body, params, ids, arrived, hide_output=only)
    if body.stream:
        return EventStream(context, generation, CompletionChunks(answer, generation, echo))
    async with WhileConnected(http.receive, context):
        await generation.run()
    return JsonAnswer(completion_answer(answer, generation, echo))


async def _chat_completions(context: ServerContext, http: HttpRequest) -> Response:
    arrived = time.monotonic()
    body = await read_body(http, context, ChatCompletionRequest)
    ready, tokenizer, table = context.loaded()
    params = conversion.chat_params(body, tokenizer, ready.vocab_size)
    conversion.check_drafters(params, ready)
    size = sum(len(message.content or "") for message in body.messages)
    ids = await off_loop(size, lambda: conversion.chat_prompt_ids(body, tokenizer))
    conversion.check_length(ids, params, ready, "messages")
    answer = _answer(context, table, "chatcmpl-", body, params.logprobs, body.prompt_logprobs)
    generation = _generation(context, table, answer, body, params, [ids], arrived)
    if body.stream:
        return EventStream(context, generation, ChatChunks(answer, generation))
    async with WhileConnected(http.receive, context):
        await generation.run()
    return JsonAnswer(chat_answer(answer, generation))


def _texts(prompts: Sequence[str | list[int]], tokenizer: Tokenizer) -> list[str]:
    return [p if isinstance(p, str) else tokenizer.decode(p, skip_special_tokens=False) for p in prompts]


def _answer(
    context: ServerContext,
    table: TokenBytes,
    prefix: str,
    body: SamplingBody,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> Answer:
    options = body.stream_options
    wanted = options is not None and options.include_usage
    report = body.speculative is not None and body.speculative.report
    return Answer(
        id=prefix + uuid.uuid4().hex,
        created=int(time.time()),
        model=body.adapter_id or body.model or context.model_name,
        names=TokenNames(table, body.return_tokens_as_token_ids),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        include_usage=wanted or report,  # a report is asked for to be seen
        continuous_usage=options is not None and wanted and options.continuous_usage_stats,
    )


def _generation(
    context: ServerContext,
    table: TokenBytes,
    answer: Answer,
    body: SamplingBody,
    params: SamplingParams,
    ids: Sequence[list[int]],
    arrived: float,
    hide_output: bool = False,
) -> Generation:
    now, adapter = time.time(), context.adapter_of(body.model, body.adapter_id)
    requests: list[Request] = [
        conversion.to_request(f"{answer.id}-{i}", prompt_ids, params, body, now, adapter)
        for i, prompt_ids in enumerate(ids)
    ]
    learning = context.learning if body.store and not hide_output else None
    record = None if learning is None else learning.record
    return Generation(context.engine, context.metrics, table, requests, arrived, hide_output, record)
