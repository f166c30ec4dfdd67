"""An OpenAI-compatible server that costs nothing: ``python fake_server_program.py PORT [JSON options]``.

Options: ``ttft``, ``gap`` (seconds), ``chunk`` (tokens a chunk), ``tokens`` (of an answer that ends by itself),
``slots`` (requests answered at a time), ``usage``, ``chat``, ``stream``, ``tokenize``, ``models`` (false: without it),
``fail`` (a text in the prompt that gets status 500), ``hang`` (one that is never answered), ``cut`` (one whose stream
breaks off),
``die_after`` (generations, then the process ends with status 3), ``names``, ``context``. A prompt's tokens are its
words; the answer is the same for the same prompt.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any
from zlib import crc32

DEFAULTS = {
    "ttft": 0.01, "gap": 0.002, "chunk": 1, "tokens": 1000, "slots": 1000, "usage": True, "chat": True, "stream": True,
    "tokenize": True, "models": True, "fail": "", "hang": "", "cut": "", "die_after": 0, "names": ["fake"],
    "context": 4096,
}  # fmt: skip
OPTIONS = DEFAULTS | json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
COUNTS = {"running": 0, "waiting": 0, "drafts": 0, "drafted": 0, "accepted": 0, "generations": 0}
SLOTS = asyncio.Semaphore(OPTIONS["slots"])


def head(status: int, kind: str, length: int | None) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{size}\r\nConnection: close\r\n\r\n".encode()


def send_json(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
    body = json.dumps(value).encode()
    writer.write(head(status, "application/json", len(body)) + body)


def metrics() -> bytes:
    lines = [
        f'paceline:num_requests_waiting{{m="x"}} {COUNTS["waiting"]}',
        f'paceline:drafts_total{{m="x"}} {COUNTS["drafts"]}',
        f'paceline:draft_tokens_total{{m="x"}} {COUNTS["drafted"]}',
        f'paceline:accepted_tokens_total{{m="x"}} {COUNTS["accepted"]}',
    ]
    return "\n".join(lines).encode()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = first.split(" ")
        sizes = [line.partition(":")[2] for line in lines if line.lower().startswith("content-length")]
        body = json.loads(await reader.readexactly(int(sizes[0]))) if sizes and int(sizes[0]) else {}
        await route(writer, method, path, body)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def route(writer: asyncio.StreamWriter, method: str, path: str, body: dict[str, Any]) -> None:
    text = body.get("prompt") or " ".join(message["content"] for message in body.get("messages", ()))
    if path == "/health":
        send_json(writer, 200, {})
    elif path == "/metrics":
        writer.write(head(200, "text/plain", len(metrics())) + metrics())
    elif path == "/v1/models" and OPTIONS["models"]:
        listed = [{"id": name, "max_model_len": OPTIONS["context"]} for name in OPTIONS["names"]]
        send_json(writer, 200, {"data": listed})
    elif path == "/tokenize" and OPTIONS["tokenize"]:
        send_json(writer, 200, {"count": len(text.split())})
    elif path == "/v1/chat/completions" and not OPTIONS["chat"]:
        send_json(writer, 400, {"error": {"message": "no chat template"}})
    elif path in ("/v1/chat/completions", "/v1/completions"):
        if body.get("model") not in (None, *OPTIONS["names"]):
            send_json(writer, 404, {"error": {"message": f"no model {body['model']}"}})
            return
        await generate(writer, "chat" in path, body, text)
    else:
        send_json(writer, 404, {"error": {"message": "not here"}})


async def generate(writer: asyncio.StreamWriter, chat: bool, body: dict[str, Any], text: str) -> None:
    COUNTS["generations"] += 1
    if OPTIONS["die_after"] and COUNTS["generations"] > OPTIONS["die_after"]:
        print("out of order", flush=True)
        os._exit(3)
    if OPTIONS["fail"] and OPTIONS["fail"] in text:
        send_json(writer, 500, {"error": {"message": "I cannot"}})
        return
    count = body["max_tokens"] if body.get("ignore_eos") else min(body["max_tokens"], OPTIONS["tokens"])
    COUNTS["waiting"] += 1
    async with SLOTS:
        COUNTS["waiting"] -= 1
        await asyncio.sleep(OPTIONS["ttft"])
        if OPTIONS["hang"] and OPTIONS["hang"] in text:
            await asyncio.sleep(1000)
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": count}
        if not body.get("stream") or not OPTIONS["stream"]:
            send_json(writer, 200, {"choices": [{"text": "x"}], "usage": usage})
            return
        await stream(writer, chat, text, count, usage)


async def stream(writer: asyncio.StreamWriter, chat: bool, text: str, count: int, usage: dict[str, int]) -> None:
    writer.write(head(200, "text/event-stream", None))

    async def event(value: Any) -> None:
        data = f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()
        writer.write(b"%x\r\n" % len(data) + data + b"\r\n")
        await writer.drain()

    made = 0
    while made < count:
        size = min(OPTIONS["chunk"], count - made)
        piece = "".join(f" {(crc32(text.encode()) + made + i) % 9973}" for i in range(size))
        await event({"choices": [{"delta": {"content": piece}} if chat else {"text": piece}]})
        made += size
        COUNTS["drafts"] += size > 1
        COUNTS["drafted"] += 3 * (size > 1)
        COUNTS["accepted"] += size - 1
        if OPTIONS["cut"] and OPTIONS["cut"] in text and made >= 2:
            return
        if made < count:
            await asyncio.sleep(OPTIONS["gap"])
    if OPTIONS["usage"]:
        await event({"choices": [], "usage": usage})
    await event("[DONE]")
    writer.write(b"0\r\n\r\n")


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]), backlog=512)
    await server.serve_forever()


asyncio.run(main())
