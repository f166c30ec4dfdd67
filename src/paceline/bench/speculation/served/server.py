"""A server that answers chats: who it is, what it counts, and one streamed answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paceline.bench.client import Timeline, stream_completion
from paceline.bench.endpoint import Endpoint, EndpointError
from paceline.bench.speculation.served.counters import is_paceline, read_step_counts
from paceline.bench.speculation.step_counts import StepCounts
from paceline.bench.speculation.workloads import Message
from paceline.bench.sse import HttpError

CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class Server:
    """``model``: its name in requests. ``context_length``: None where the server does not tell. ``paceline``: it takes
    ``speculative`` in requests and reports each one's steps. ``counts_drafts``: it has vLLM's counters of drafts.
    ``tokenizes``: it counts a chat's tokens."""

    endpoint: Endpoint
    model: str
    context_length: int | None
    paceline: bool
    counts_drafts: bool
    tokenizes: bool

    def metrics(self) -> str:
        """The text of ``/metrics``; empty where there is none."""
        status, text = self.endpoint.get("/metrics")
        return text if status == 200 else ""

    def step_counts(self) -> StepCounts | None:
        """Its counters of drafts now; None where it has none. Raises ``EndpointError`` for what is not numbers."""
        try:
            return read_step_counts(self.metrics())
        except ValueError as error:
            raise EndpointError(f"{self.endpoint.url}/metrics cannot be read: {error}") from error

    def tokens(self, messages: Sequence[Message]) -> int | None:
        """Tokens of a chat as the model reads it; None where the server cannot tell."""
        if not self.tokenizes:
            return None
        return int(self.endpoint.post("/tokenize", {"model": self.model, "messages": list(messages)})["count"])

    async def answer(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float,
        seed: int,
        speculative: Mapping[str, Any] | None,
    ) -> Timeline:
        """One streamed answer. Raises ``EndpointError`` with the server's message."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if speculative is not None:
            body["speculative"] = dict(speculative)
        key = self.endpoint.api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        place = self.endpoint
        try:
            timeline = await stream_completion(place.host, place.port, place.prefix + CHAT, body, headers)
        except (HttpError, OSError) as error:
            raise EndpointError(f"{place.url}{CHAT} failed: {error}") from error
        if not timeline.usage:
            raise EndpointError(f"{place.url}{CHAT} tells no usage at the end of a stream, so tokens cannot be counted")
        return timeline


def open_server(endpoint: Endpoint, model: str = "") -> Server:
    """Asks a server who it is. ``model``: the name to ask for; "" is the first one that it lists.

    Raises ``EndpointError`` when it cannot be reached, speaks TLS, or does not serve the model.
    """
    if endpoint.scheme != "http":
        raise EndpointError(f"{endpoint.url}: streams are timed over plain HTTP only; give an http:// address")
    listed = {str(entry.get("id")): entry for entry in endpoint.models()}
    name = model or next(iter(listed))
    if name not in listed:
        raise EndpointError(f"{endpoint.url} does not serve {name!r}; it has {', '.join(listed)}")
    length = listed[name].get("max_model_len")
    status, text = endpoint.get("/metrics")
    text = text if status == 200 else ""
    server = Server(
        endpoint,
        name,
        int(length) if isinstance(length, int) else None,
        is_paceline(text),
        read_step_counts(text) is not None,
        True,
    )
    try:
        server.tokens([{"role": "user", "content": "Hello"}])
    except (EndpointError, KeyError, TypeError, ValueError):
        server.tokenizes = False
    return server
