"""Engines that cost nothing: a scripted target, and small programs that speak the protocols of real ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from paceline.bench.client import Timeline
from paceline.bench.peers.targets import Target
from paceline.bench.processes import Memory, ProcessTree
from paceline.bench.sse import HttpError

#: A completions server on ``sys.argv[1]``: one event a token, chunked, usage at the end. Refuses prompts of 13 tokens.
SERVER = r"""
import asyncio, json, sys

async def answer(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"GET"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()
        return
    length = int([line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")][0].split(b":")[1])
    body = json.loads(await reader.readexactly(length))
    if len(body["prompt"]) == 13:
        text = b'{"error": {"message": "unlucky prompt"}}'
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        writer.close()
        return
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def send(text):
        data = f"data: {text}\n\n".encode()
        writer.write(b"%x\r\n" % len(data) + data + b"\r\n")
        await writer.drain()

    for i in range(body["max_tokens"]):
        await asyncio.sleep(0.002)
        await send(json.dumps({"choices": [{"text": f" t{i}", "finish_reason": None}]}))
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
    await send(json.dumps({"choices": [], "usage": usage}))
    await send("[DONE]")
    writer.write(b"0\r\n\r\n")
    writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"""

#: The worker protocol on standard input and output, after some chatter.
WORKER = r"""
import json, sys
print("loading, please wait")
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["prompt"][0] == 13:
        sys.exit("unlucky prompt")
    for _ in range(request["max_tokens"]):
        print(json.dumps({"id": request["id"], "tokens": 1}), flush=True)
    print(json.dumps({"id": request["id"], "done": True, "seconds": 0.5}), flush=True)
"""


class ScriptedTarget(Target):
    """Answers at once with times from a script; notes in ``history`` who was measured while who was running."""

    def __init__(
        self, name: str, history: list[str], speed: float = 100.0, fails_on: int = -1, **options: object
    ) -> None:
        super().__init__(name, [], **options)  # type: ignore[arg-type]
        self.history = history
        self.speed = speed
        self.fails_on = fails_on
        self.prompts: list[tuple[int, ...]] = []
        self.running = False

    async def start(self, prompt: Sequence[int]) -> float:
        self.history.append(f"start {self.name}")
        self.running = True
        self.suspended = False
        self.tree = object()  # type: ignore[assignment]
        return 10.0 / self.speed

    def stop(self) -> None:
        self.running, self.tree = False, None

    def suspend(self) -> None:
        self.suspended = True

    def resume(self) -> None:
        self.suspended = False

    def memory(self) -> Memory:
        return Memory(500.0, 600.0)

    def _launch(self) -> ProcessTree:
        raise NotImplementedError

    async def _is_ready(self) -> bool:
        return True

    async def generate(self, prompt: Sequence[int], max_tokens: int) -> Timeline:
        assert self.running and not self.suspended, f"{self.name} was asked while it was suspended"
        await asyncio.sleep(0)
        self.prompts.append(tuple(prompt))
        self.history.append(f"{self.name} {len(prompt)}/{max_tokens}")
        if len(self.prompts) == self.fails_on:
            raise HttpError("out of order")
        sent = time.perf_counter()
        arrivals = [sent + 0.1 + i / self.speed for i in range(max_tokens)]
        return Timeline(sent, arrivals, max_tokens, len(prompt))
