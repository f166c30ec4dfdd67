"""``/v1/models``, ``/tokenize``, ``/detokenize`` and ``/tokenizer_info``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from paceline.models.tokenizer import Tokenizer
from paceline.server import conversion
from paceline.server.context import ServerContext, off_loop
from paceline.server.intake import check, read_body, read_json
from paceline.server.schemas import DetokenizeRequest, TokenizeChatRequest, TokenizeCompletionRequest
from paceline.server.sse import JsonAnswer

_SPECIAL_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


def routes(context: ServerContext) -> APIRouter:
    """What clients ask about the model of ``context``."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> Response:
        return JsonAnswer({"object": "list", "data": [_model(context, name) for name in context.served_names]})

    @router.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        context.check_model(model)
        return JsonAnswer(_model(context, model))

    @router.get("/tokenizer_info")
    async def tokenizer_info() -> Response:
        """What lm-eval asks when it uses the server's tokenizer instead of one of its own."""
        _, tokenizer, _ = context.loaded()
        return JsonAnswer(_tokenizer_info(tokenizer))

    @router.post("/tokenize")
    async def tokenize(http: HttpRequest) -> Response:
        return JsonAnswer(await _tokenize(context, http))

    @router.post("/detokenize")
    async def detokenize(http: HttpRequest) -> Response:
        body = await read_body(http, context, DetokenizeRequest)
        ready, tokenizer, _ = context.loaded()
        ids = conversion.check_ids(body.tokens, ready.vocab_size, "tokens")
        text = await off_loop(4 * len(ids), lambda: tokenizer.decode(ids, skip_special_tokens=False))
        return JsonAnswer({"prompt": text})

    return router


def _model(context: ServerContext, name: str) -> dict[str, Any]:
    ready, adapter = context.engine.ready, context.engine.adapters.get(name)
    root = ready.model if ready else context.model_name
    entry = {
        "id": name,
        "object": "model",
        "created": context.created,
        "owned_by": "paceline",
        "root": root if adapter is None else adapter.path,
        "parent": None if adapter is None else context.model_name,
        "max_model_len": ready.context_length if ready else None,
    }
    if adapter is not None:
        own = adapter.speculator
        entry["kind"], entry["bytes"] = adapter.kind, adapter.nbytes
        entry["speculator"] = None if own is None else {
            "positions": own.positions, "vocab_size": own.vocab_size, "bytes": own.nbytes
        }  # fmt: skip
    return entry


def _tokenizer_info(tokenizer: Tokenizer) -> dict[str, Any]:
    """With the names of ``tokenizer_config.json``, as vLLM answers; a special token is a text or null."""
    special = {role: tokenizer.special_tokens.get(role) for role in _SPECIAL_ROLES}
    template = tokenizer.chat_templates.get("default")
    return {"tokenizer_class": "PreTrainedTokenizerFast", **special, "chat_template": template}


async def _tokenize(context: ServerContext, http: HttpRequest) -> dict[str, Any]:
    data = await read_json(http, context)
    ready, tokenizer, table = context.loaded()
    body: TokenizeChatRequest | TokenizeCompletionRequest
    if "messages" in data:
        chat = body = check(data, context, TokenizeChatRequest)
        size = sum(len(message.content or "") for message in chat.messages)
        ids = await off_loop(size, lambda: conversion.chat_prompt_ids(chat, tokenizer))
    else:
        text = body = check(data, context, TokenizeCompletionRequest)
        ids = await off_loop(len(text.prompt), lambda: tokenizer.encode(text.prompt, text.add_special_tokens))
    answer: dict[str, Any] = {"count": len(ids), "max_model_len": ready.context_length, "tokens": ids}
    if body.return_token_strs:
        answer["token_strs"] = [table[token].decode("utf-8", "replace") for token in ids]
    return answer
