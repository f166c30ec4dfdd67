"""A few requests to a running server, one after the other: what a single client sees of it."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from paceline.bench.client import Timeline
from paceline.bench.diagnose.observations import Probes
from paceline.bench.endpoint import Endpoint, EndpointError
from paceline.bench.text import passage

REPEATS = 3
ROUND_TRIPS = 20
SHORT_SENTENCES, LONG_SENTENCES = 1, 44  # about 25 and 1,000 tokens of English
TOKENS_A_SENTENCE = 25  # at most, with most tokenizers
ANSWER_TOKENS = 32
LEAST_ANSWER = 4  # tokens that tell a speed
_NO_ROUTE = (404, 405, 501)


@dataclass(slots=True)
class Prober:
    """Sends the probes. ``model``: None for the first that the server lists; ``extra``: more fields of each request,
    that only some servers know. Texts are new each time, so that no
    prefix cache and no drafter knows them."""

    endpoint: Endpoint
    model: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    _rng: random.Random = field(default_factory=lambda: random.Random(secrets.randbits(64)))
    _chat: bool = False
    _limit: int | None = None

    def run(self) -> Probes:
        """All probes. Raises ``EndpointError`` when the server does not serve one."""
        self._look()
        trips = self.endpoint.round_trips(self._idle_path(), ROUND_TRIPS)
        self._send(SHORT_SENTENCES, 2)  # what is loaded or compiled at the first request is not the server's pace
        short = [self._send(SHORT_SENTENCES, ANSWER_TOKENS) for _ in range(REPEATS)]
        long = [self._send(self._long_sentences(), 1) for _ in range(REPEATS)]
        answers = [one for one in short if one.tokens >= LEAST_ANSWER and one.arrivals[-1] > one.arrivals[0]]
        return Probes(
            round_trip=median(trips),
            short_ttft=median(one.ttft for one in short),
            short_tokens=round(median(one.prompt_tokens for one in short)),
            long_ttft=median(one.ttft for one in long),
            long_tokens=round(median(one.prompt_tokens for one in long)),
            tpot=median(1 / one.decode_rate for one in answers) if answers else None,
            answer_tokens=round(median(one.tokens for one in answers or short)),
        )

    def _look(self) -> None:
        """What the server is called by, and how long a prompt may be."""
        listed = self.endpoint.models()
        entry = next((one for one in listed if one.get("id") == self.model), listed[0])
        self.model = self.model or str(entry.get("id"))
        limit = entry.get("max_model_len")
        self._limit = limit if isinstance(limit, int) else None

    def _long_sentences(self) -> int:
        if self._limit is None:
            return LONG_SENTENCES
        room = (self._limit - 64) // TOKENS_A_SENTENCE
        return max(SHORT_SENTENCES, min(LONG_SENTENCES, room))

    def _idle_path(self) -> str:
        status, _ = self.endpoint.get("/health")
        return "/health" if status == 200 else "/v1/models"

    def _send(self, sentences: int, max_tokens: int) -> Timeline:
        text = passage(self._rng.getrandbits(48), sentences)
        common = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream_options": {"include_usage": True},
            **self.extra,
        }
        if not self._chat:
            try:
                return self._checked(self.endpoint.stream("/v1/completions", {**common, "prompt": text}), sentences)
            except EndpointError as error:
                if error.status not in _NO_ROUTE:
                    raise
                self._chat = True  # a server for chats only
        messages = [{"role": "user", "content": text}]
        body: Mapping[str, Any] = {**common, "messages": messages}
        return self._checked(self.endpoint.stream("/v1/chat/completions", body), sentences)

    def _checked(self, timeline: Timeline, sentences: int) -> Timeline:
        """A server that does not count its tokens is taken to send one a chunk."""
        timeline.tokens = timeline.tokens or len(timeline.arrivals)
        timeline.prompt_tokens = timeline.prompt_tokens or sentences * TOKENS_A_SENTENCE
        return timeline
