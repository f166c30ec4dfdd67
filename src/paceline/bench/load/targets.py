"""A server under load: one that is started here, or one that runs somewhere and is named by its URL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paceline.bench.endpoint import Endpoint, EndpointError
from paceline.bench.load.counters import read_counters
from paceline.bench.load.lengths import Messages
from paceline.bench.load.plan import PlannedRequest
from paceline.bench.load.settings import Api
from paceline.bench.load.workloads import Shot
from paceline.bench.peers.targets import HOST, HttpTarget

SCRAPE_SECONDS = 5.0  # that an answer of /metrics may take
LAST_WORDS = 600  # characters of a dead server's log
PROBE: Messages = ({"role": "user", "content": "Say hello."},)
UNKNOWN = (400, 404, 405, 422, 500, 501)  # how servers refuse a route, or a chat without a template


@dataclass(slots=True)
class LoadTarget:
    """``server``: the processes, when they are started here; otherwise ``endpoint`` names a server that runs.

    ``model``: the name to send; found by ``probe`` when empty. ``adapters``: the names under which this server has
    them. Found by ``probe``: ``api``, ``context`` (tokens of a request and its answer; None: not told) and ``notes``.
    """

    name: str
    endpoint: Endpoint | None = None
    server: HttpTarget | None = None
    model: str = ""
    adapters: Sequence[str] = ()
    api: Api = "auto"
    context: int | None = None
    notes: list[str] = field(default_factory=list)
    _tokenize: str = ""  # which of the known forms the server takes

    @property
    def owned(self) -> bool:
        """Whether it is started, suspended and stopped here."""
        return self.server is not None

    @property
    def address(self) -> Endpoint:
        assert self.endpoint is not None, f"{self.name} is not open"
        return self.endpoint

    async def open(self) -> None:
        """Starts the server, if it is one of ours, and finds out how it is to be asked.

        Raises ``TargetError`` (it does not start), ``EndpointError`` (it does not answer, or does not have a model)."""
        if self.server is not None:
            await self.server.open()
            self.endpoint = Endpoint("http", HOST, self.server.port)
        await asyncio.to_thread(self.probe)

    def probe(self) -> None:
        """Finds model, context, API and tokenizer; tries every adapter."""
        self._find_model()
        self._find_api()
        for adapter in self.adapters:
            try:
                self._try(self.api, adapter)
            except EndpointError as error:
                raise EndpointError(f"{self.name} does not answer for adapter {adapter!r}: {error}") from error
        self._find_tokenizer()

    def _find_model(self) -> None:
        try:
            listed = self.address.models()
        except EndpointError as error:
            if not error.status:
                raise  # nobody is there
            if not self.model:
                raise EndpointError(f"{error}; name the model behind the URL as in URL#MODEL") from error
            return
        names = [str(entry.get("id")) for entry in listed]
        self.model = self.model or names[0]
        entry = next((entry for entry in listed if entry.get("id") == self.model), listed[0])
        length = entry.get("max_model_len")
        self.context = length if isinstance(length, int) else self._slot_context()

    def _slot_context(self) -> int | None:
        """Of llama.cpp's server, which tells it elsewhere."""
        with contextlib.suppress(EndpointError, ValueError, KeyError, TypeError):
            status, text = self.address.get("/props")
            if status == 200:
                return int(json.loads(text)["default_generation_settings"]["n_ctx"])
        return None

    def _find_api(self) -> None:
        if self.api != "auto":
            self._try(self.api, "")
            return
        try:
            self._try("chat", "")
            self.api = "chat"
        except EndpointError as chat:
            if chat.status not in UNKNOWN:
                raise
            self._try("completions", "")
            self.api = "completions"
            self.notes.append(f"{self.name}: asked by /v1/completions, since it refuses a chat ({chat})")

    def _try(self, api: Api, adapter: str) -> None:
        request = self.request(Shot(0.0, PROBE, 1, adapter), 0.0, api, stream=False)
        self.address.post(request.path, request.body)

    def _find_tokenizer(self) -> None:
        for form in ("messages", "prompt", "content"):
            if form == "messages" and self.api != "chat":
                continue
            self._tokenize = form
            with contextlib.suppress(EndpointError):
                if self._count(PROBE) is not None:
                    return
        self._tokenize = ""

    def count_tokens(self, texts: Sequence[Messages]) -> list[int]:
        """Tokens of each text as the server counts them; none when it does not."""
        if not self._tokenize:
            return []
        try:
            counts = [self._count(text) for text in texts]
        except EndpointError:
            return []
        return [] if None in counts else [count for count in counts if count is not None]

    def _count(self, messages: Messages) -> int | None:
        body: dict[str, Any] = {"messages": list(messages)}
        if self._tokenize != "messages":
            body = {self._tokenize: plain(messages)}
        if self._tokenize != "content":
            body["model"] = self.model
        answer = self.address.post("/tokenize", body)
        tokens = answer.get("tokens")
        count = answer.get("count", len(tokens) if isinstance(tokens, list) else None)
        return count if isinstance(count, int) and count > 0 else None

    def request(self, shot: Shot, temperature: float, api: Api | None = None, stream: bool = True) -> PlannedRequest:
        """The HTTP request of a shot."""
        model = shot.adapter or self.model
        body: dict[str, Any] = {"max_tokens": shot.max_tokens, "temperature": temperature}
        if model:
            body["model"] = model
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if shot.ignore_eos:
            body["ignore_eos"] = True
        if (api or self.api) == "chat":
            path, body["messages"] = "/v1/chat/completions", list(shot.messages)
        else:
            path, body["prompt"] = "/v1/completions", plain(shot.messages)
        prefix = self.address.prefix if stream else ""  # the endpoint puts it before what it is asked itself
        return PlannedRequest(shot.at, model, prefix + path, body)

    async def counters(self) -> dict[str, float]:
        """The server's counters now; empty when it does not tell."""
        return await asyncio.to_thread(self._scrape)

    def _scrape(self) -> dict[str, float]:
        with contextlib.suppress(EndpointError):
            status, text = replace(self.address, timeout=SCRAPE_SECONDS).get("/metrics")
            return read_counters(text) if status == 200 else {}
        return {}

    def ended(self) -> str:
        """Why the server's process is no more; "" while it runs, and for one that was not started here."""
        tree = self.server.tree if self.server is not None else None
        status = None if tree is None else tree.process.poll()
        if tree is None or status is None:
            return ""
        if status < 0:
            return f"its process was ended by {signal.Signals(-status).name}"
        return f"its process ended with status {status}; its last words:\n{tree.tail(LAST_WORDS).strip()}"

    async def unreachable(self) -> str:
        """Why nobody takes connections there; "" when somebody does. A server that is only slow is not gone."""
        try:
            await asyncio.to_thread(self.address.get, "/v1/models")
        except EndpointError as error:
            return str(error)
        return ""

    def suspend(self) -> None:
        if self.server is not None:
            self.server.suspend()

    def resume(self) -> None:
        if self.server is not None:
            self.server.resume()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()


def plain(messages: Messages) -> str:
    """Messages as one text, for servers without a chat template."""
    return "\n\n".join(message["content"] for message in messages)
