"""A scripted engine and a byte-level tokenizer, served by a real uvicorn on a free port."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import tokenizers

from paceline.engine.messages import (
    AdapterInfo,
    Choice,
    EngineReady,
    EngineStats,
    Request,
    SequenceDelta,
    SpeculatorInfo,
    StepSpeculation,
    TokenLogprobs,
)
from paceline.errors import AdapterError, ModelLoadError
from paceline.models.tokenizer import Tokenizer
from paceline.server.app import create_app
from paceline.server.config import ServerConfig
from paceline.server.context import ServerContext
from paceline.server.serve import HttpServer

EOS = 256
SPECIALS = ("<eos>", "<|im_start|>", "<|im_end|>")
CONTEXT_LENGTH = 2048


TEMPLATE = """
{%- if messages[0].role == "assistant" %}{{ raise_exception("the conversation must begin with a user") }}{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def byte_tokenizer() -> Tokenizer:
    """One token a byte (ids 0 to 255), and three special tokens behind them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    vocabulary = {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    return Tokenizer(backend, special_tokens={"eos_token": "<eos>"}, chat_templates={"default": TEMPLATE})


@dataclass
class Script:
    """What the fake engine answers: ``text`` (then end of sequence) in deltas of ``chunk`` tokens every ``pause_s``.

    With a ``drafter`` the first token comes alone, as behind a prompt; all but the last token of each later delta were
    drafted, and one more that was not accepted."""

    text: str = "Hello, world"
    chunk: int = 1
    pause_s: float = 0.0
    forever: bool = False
    burst: bool = False  # everything at once, as when the server was busy for a while
    fail: Callable[[], Exception] | None = None
    fail_after: int = 0  # deltas
    delta_error: str | None = None
    drafter: str | None = None


@dataclass
class FakeEngine:
    """An engine client that needs no engine. Same prompt and parameters, same answer."""

    script: Script = field(default_factory=Script)
    ready: EngineReady | None = None
    dead: str | None = None
    serving: bool = True
    num_restarts: int = 0
    stats: EngineStats = field(default_factory=EngineStats)
    requests: list[Request] = field(default_factory=list)
    aborted: list[tuple[str, int | None]] = field(default_factory=list)
    running: int = 0
    closed: bool = False
    adapters: dict[str, AdapterInfo] = field(default_factory=dict)
    adapter_error: str | None = None  # refuses what it is asked to load
    speculators: list[str | None] = field(default_factory=list)  # it was told to use

    async def load_adapter(self, name: str, path: str, replace: bool = False) -> AdapterInfo:
        if self.adapter_error is not None:
            raise AdapterError(self.adapter_error)
        assert replace or name not in self.adapters
        self.adapters[name] = AdapterInfo(name=name, path=path)
        return self.adapters[name]

    async def unload_adapter(self, name: str) -> None:
        del self.adapters[name]

    async def use_speculator(self, path: str | None) -> SpeculatorInfo | None:
        if path is not None and "damaged" in Path(path, "model.safetensors").read_text():
            raise ModelLoadError("it is damaged")
        self.speculators.append(path)
        return None

    def load(self) -> None:
        self.ready = EngineReady(
            model="/models/tiny",
            context_length=CONTEXT_LENGTH,
            vocab_size=259,
            max_queue=4,
            choices=[Choice("threads", "2", "2 usable cores")],
            drafters=["suffix", "ngram"],
        )

    async def generate(self, request: Request) -> AsyncGenerator[SequenceDelta, None]:
        script = self.script
        self.requests.append(request)
        self.running += 1
        done = [False] * request.params.n
        try:
            if script.fail is not None and script.fail_after == 0:
                raise script.fail()
            count = 0
            async for delta in self._deltas(request):
                if self._is_aborted(request, delta.index):
                    done[delta.index] = True
                    continue
                if script.fail is not None and count == script.fail_after:
                    raise script.fail()
                count += 1
                yield delta
                done[delta.index] = delta.finish_reason is not None
        finally:
            self.running -= 1
            if not all(done):
                self.aborted.append((request.request_id, None))

    async def abort(self, request_id: str, index: int | None = None) -> None:
        self.aborted.append((request_id, index))

    async def close(self) -> None:
        self.closed = True

    def _is_aborted(self, request: Request, index: int) -> bool:
        return (request.request_id, index) in self.aborted

    async def _deltas(self, request: Request) -> AsyncIterator[SequenceDelta]:
        script, params = self.script, request.params
        ids = [*script.text.encode()] + ([] if params.ignore_eos else [EOS])
        limit = params.max_tokens or CONTEXT_LENGTH
        position = 0
        while position < min(len(ids), limit) or script.forever:
            chunk = 1 if script.drafter and not position else script.chunk
            part = ids[position : min(position + chunk, limit)] or [ord("x")]
            position += len(part)
            stop = EOS if part[-1] == EOS else next((t for t in part if t in params.stop_token_ids), None)
            finish = "stop" if stop is not None else "length" if position >= min(len(ids), limit) else None
            for index in range(params.n):
                delta = SequenceDelta(
                    request_id=request.request_id,
                    index=index,
                    token_ids=list(part),
                    finish_reason=None if script.forever else finish,
                    stop_token=stop,
                )
                self._decorate(delta, request, first=position == len(part))
                yield delta
            if finish is not None and not script.forever:
                return
            if not script.burst:
                await asyncio.sleep(script.pause_s)

    def _decorate(self, delta: SequenceDelta, request: Request, first: bool) -> None:
        params = request.params
        if self.script.delta_error is not None:
            delta.finish_reason, delta.error = "error", self.script.delta_error
        if params.logprobs is not None:
            delta.logprobs = [scripted_logprobs(token, params.logprobs) for token in delta.token_ids]
        if params.wants_report:
            delta.speculation = self._speculation(len(delta.token_ids), first)
        if first:
            delta.queue_time, delta.num_cached_tokens = 0.001, min(3, len(request.prompt_ids))
            if params.prompt_logprobs is not None:
                later = request.prompt_ids[1:]
                delta.prompt_logprobs = [None, *(scripted_logprobs(t, params.prompt_logprobs) for t in later)]

    def _speculation(self, count: int, first: bool) -> StepSpeculation:
        if first or self.script.drafter is None:
            return StepSpeculation(time=0.5, time_without=0.5)
        name = self.script.drafter
        return StepSpeculation(drafted={name: count}, sources=[name] * (count - 1), time=0.25, time_without=0.5)


def scripted_logprobs(token: int, count: int) -> TokenLogprobs:
    """The token is the likeliest, then its neighbours."""
    top = [(token + i) % 256 for i in range(count)]
    return TokenLogprobs(token, -0.5, 1, top, [-0.5 - i for i in range(count)])


class LiveServer:
    """A server on a free port, in a thread of its own with its own event loop."""

    def __init__(self, engine: FakeEngine, tokenizer: Tokenizer, loaded: bool = True, **config: Any) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.http = httpx.Client(timeout=10)
        self.context = ServerContext(ServerConfig(model_names=("tiny", "alias"), **config), engine)
        if loaded:
            self.load()
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen()
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = HttpServer(self.context, create_app(self.context))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def load(self) -> None:
        self.engine.load()
        self.context.set_tokenizer(self.tokenizer)

    def start(self) -> None:
        self.thread.start()
        wait_until(lambda: self.server.started)

    def stop(self) -> None:
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join(10)
        self.http.close()

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.http.post(self.url + path, json=body, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(self.url + path, **options)


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Fails the test when ``condition`` does not become true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "condition did not become true"
        time.sleep(0.002)
