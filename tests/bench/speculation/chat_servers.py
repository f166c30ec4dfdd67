"""Chat servers that cost nothing: they answer what they are told to, in steps of scripted lengths, and count drafts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

STEP_SECONDS = 0.002

Kind = Literal["paceline", "vllm", "plain"]


class ChatServer:
    """``kind``: Paceline (reports each request's steps, has its metrics), vLLM (has counters of drafts) or neither.

    The last user message is ``LENGTH TEXT``: the answer is TEXT, a token a letter and one for the end, the first in the
    prefill and then LENGTH a step, where all but the last were drafted and accepted and one more was drafted. Every
    step is a chunk; with ``merge`` two are. A prompt has a token a letter of all messages.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        merge: bool = False,
        lie: int = 0,
        context: int | None = 3000,
        others: int = 0,
        cached: int = 0,
    ) -> None:
        self.kind = kind
        self.merge = merge
        self.lie = lie  # tokens that usage tells too many
        self.context = context
        self.others = others  # draft tokens of somebody else's requests
        self.cached = cached
        self.bodies: list[dict[str, Any]] = []
        self.counts = {"drafts": 0, "draft_tokens": 0, "accepted_tokens": 0}
        self.positions: dict[int, int] = {}
        self.most_open = self.open = 0
        self.lock = threading.Lock()

    def steps(self, body: dict[str, Any]) -> list[int]:
        """Tokens of each step, the prefill's first."""
        length, _, text = body["messages"][-1]["content"].partition(" ")
        tokens = min(len(text) + 1, body["max_tokens"])
        wish = body.get("speculative", {})
        drafts = wish.get("enabled", True) and length.isdigit()
        most = min(int(length) if drafts else 1, wish.get("max_draft", 99) + 1)
        steps = [1]
        while tokens - sum(steps):
            steps.append(min(most, tokens - sum(steps)))
        return steps

    def count(self, steps: list[int], body: dict[str, Any]) -> None:
        if not body.get("speculative", {}).get("enabled", True):
            return
        with self.lock:
            for length in steps[1:]:
                self.counts["drafts"] += 1
                self.counts["draft_tokens"] += length
                self.counts["accepted_tokens"] += length - 1
                for position in range(length - 1):
                    self.positions[position] = self.positions.get(position, 0) + 1
            self.counts["draft_tokens"] += self.others

    def events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        text = body["messages"][-1]["content"].partition(" ")[2]
        steps = self.steps(body)
        pieces = [text[sum(steps[:i]) : sum(steps[: i + 1])] for i in range(len(steps))]
        if self.merge:
            pieces = ["".join(pieces[i : i + 2]) for i in range(0, len(pieces), 2)]
        for piece in pieces:
            yield {"choices": [{"index": 0, "delta": {"content": piece}}]}
        self.count(steps, body)
        usage: dict[str, Any] = {
            "prompt_tokens": self.tokens(body["messages"]),
            "completion_tokens": sum(steps) + self.lie,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
        if body.get("speculative", {}).get("report"):
            usage["speculation"] = self.report(steps)
        yield {"choices": [], "usage": usage}

    def report(self, steps: list[int]) -> dict[str, Any]:
        later = steps[1:]
        drafter = {"drafted": sum(later), "accepted": sum(later) - len(later)}
        return {
            "steps": len(later),
            "prefill_steps": 1,
            "histogram": [later.count(length) for length in range(max(later, default=0) + 1)],
            "by_drafter": {"suffix": drafter},
            "time_s": 0.1,
            "estimated_time_without_s": 0.2,
        }

    def tokens(self, messages: list[dict[str, str]]) -> int:
        return sum(len(message["content"]) for message in messages)

    def metrics(self) -> str:
        if self.kind == "plain":
            return "process_cpu_seconds_total 1\n"
        lines = [f"vllm:spec_decode_num_{name}_total {value}" for name, value in self.counts.items()]
        name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
        lines += [f'{name}{{position="{place}"}} {count}' for place, count in self.positions.items()]
        return "\n".join([*lines, *(["paceline:engine_up 1"] if self.kind == "paceline" else [])]) + "\n"


def handler_of(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self.answer(200, server.metrics().encode(), "text/plain")
            elif self.path == "/v1/models":
                model = {"id": "tiny"} | ({} if server.context is None else {"max_model_len": server.context})
                self.answer(200, json.dumps({"data": [model]}).encode())
            else:
                self.answer(404, b'{"error": {"message": "no such path"}}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize" and server.kind != "plain":
                self.answer(200, json.dumps({"count": server.tokens(body["messages"])}).encode())
            elif self.path == "/v1/chat/completions":
                self.chat(body)
            else:
                self.answer(404, b'{"error": {"message": "no such path"}}')

        def chat(self, body: dict[str, Any]) -> None:
            with server.lock:
                server.bodies.append(body)
                server.open += 1
                server.most_open = max(server.most_open, server.open)
            if server.context is not None and server.tokens(body["messages"]) + body["max_tokens"] > server.context:
                self.answer(400, b'{"error": {"message": "too long for the context"}}')
            else:
                with suppress(OSError):  # a client that gave up
                    self.stream(body)
            with server.lock:
                server.open -= 1

        def stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for event in server.events(body):
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                time.sleep(STEP_SECONDS)
            self.wfile.write(b"data: [DONE]\n\n")

        def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def serving(server: ChatServer) -> Iterator[str]:
    """The URL of ``server`` while it runs."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(server))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
