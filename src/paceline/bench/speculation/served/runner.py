"""Points at a server: with drafts, and without them by request (Paceline) or at a second server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.points import Point
from paceline.bench.speculation.run import WARM_TOKENS, WARM_UPS
from paceline.bench.speculation.served.conversation import Conversations, Indexed
from paceline.bench.speculation.served.server import Server
from paceline.bench.speculation.step_counts import StepCounts
from paceline.bench.speculation.turns import Pass, Turn
from paceline.bench.speculation.workloads import Conversation
from paceline.bench.text import passage
from paceline.errors import PacelineError

SETTLE_SECONDS = 1.0  # that a server's counters have to arrive at its /metrics

NewLoop = Callable[[], asyncio.AbstractEventLoop]


class ServerRunner:
    """``without``: a server with the same model and no drafts, for servers whose requests cannot switch them off."""

    drafts = True
    remembers = True

    def __init__(
        self, server: Server, without: Server | None = None, new_loop: NewLoop = asyncio.new_event_loop
    ) -> None:
        self.server = server
        self.without = without
        self._new_loop = new_loop
        self._openings: dict[str, int] = {}

    @property
    def baseline(self) -> bool:
        return self.server.paceline or self.without is not None

    def tokens(self, text: str) -> int:
        """Of a request whose only message is ``text``. Raises ``PacelineError`` where the server does not count."""
        count = self.server.tokens([{"role": "user", "content": text}])
        if count is None:
            url = self.server.endpoint.url
            raise PacelineError(
                f"{url} has no /tokenize, so prompts cannot be cut to a length: measure --split qualitative only"
            )
        return count

    def plan(self, conversations: Sequence[Conversation], room: int) -> tuple[list[Planned], int]:
        """The conversations whose first prompt leaves at least ``room`` tokens of the context, and how many do not;
        all of them where the server does not count tokens."""
        planned = [Planned(one, []) for one in conversations]
        if self.server.context_length is None or not self.server.tokenizes:
            return planned, 0
        for one in conversations:
            self._openings[one.key] = self.server.tokens(one.opening()) or 0
        limit = self.server.context_length - room
        fitting = [one for one in planned if self._openings[one.conversation.key] <= limit]
        return fitting, len(planned) - len(fitting)

    def run(self, planned: Sequence[Planned], point: Point, speculative: bool) -> Pass:
        passed = Pass(speculative)
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self._run(list(enumerate(planned)), point, passed))
        return passed

    async def _run(self, planned: Sequence[Indexed], point: Point, passed: Pass) -> None:
        server = self.server if passed.speculative or self.without is None else self.without
        wish = wishes(server, point, passed.speculative)
        warm = [Planned(Conversation(f"warm-up {i}", "", (passage(9_000 + i, 3),)), []) for i in range(WARM_UPS)]
        first = replace(point, concurrency=WARM_UPS, max_tokens=min(WARM_TOKENS, point.max_tokens))
        await Conversations(server, first, wish, Pass(passed.speculative), {}).run(list(enumerate(warm)))
        talks = Conversations(server, point, wish, passed, self._openings)
        before = await asyncio.to_thread(server.step_counts) if passed.speculative else None
        if before is not None and not server.paceline:
            await self._by_category(planned, talks, before)
        else:
            await talks.run(planned)
        if server.paceline and passed.speculative:
            passed.notes += stream_notes(passed.turns.values())
            if before is not None:
                passed.notes += await asyncio.to_thread(counter_notes, server, before, passed)

    async def _by_category(self, planned: Sequence[Indexed], talks: Conversations, before: StepCounts) -> None:
        """One category after another: counters know no requests, but what was counted meanwhile is the category's."""
        for category in dict.fromkeys(one.conversation.category for _, one in planned):
            await talks.run([entry for entry in planned if entry[1].conversation.category == category])
            after = await asyncio.to_thread(talks.server.step_counts)
            if after is None:
                raise PacelineError(f"{talks.server.endpoint.url}/metrics no longer tells what was drafted")
            talks.passed.counted[category] = after - before
            before = after


def wishes(server: Server, point: Point, speculative: bool) -> Mapping[str, Any] | None:
    """What requests say about drafts; only Paceline listens."""
    if not server.paceline:
        return None
    if not speculative:
        return {"enabled": False}
    length = {} if point.draft_length is None else {"max_draft": point.draft_length}
    return {"report": True, **length}


def stream_notes(turns: Iterable[Turn]) -> list[str]:
    """Whether the chunks of the streams are the engine's steps. A client or a server that lags sends the tokens of
    several steps as one chunk, so acceptance read off a stream is too high; the engine's count is what is reported."""
    turns = [turn for turn in turns if turn.lengths]
    steps = sum(len(turn.lengths) for turn in turns)
    chunks = sum(turn.chunks - turn.prefill_tokens for turn in turns)
    differing = sum(turn.chunks - turn.prefill_tokens != len(turn.lengths) for turn in turns)
    if not turns or not differing:
        return []
    tokens = sum(sum(turn.lengths) for turn in turns)
    return [
        f"the streams show {chunks} chunks where the engine counted {steps} steps (they differ in {differing} of "
        f"{len(turns)} requests): {tokens / max(1, chunks):.2f} tokens a chunk, {tokens / steps:.2f} a step; the "
        "tables are of the steps"
    ]


def counter_notes(server: Server, before: StepCounts, passed: Pass) -> list[str]:
    """Whether the counters of /metrics grew by what the requests reported."""
    drafted = sum(turn.drafted.total() for turn in passed.turns.values())
    accepted = sum(turn.accepted.total() for turn in passed.turns.values())
    until = time.monotonic() + SETTLE_SECONDS
    while (after := server.step_counts()) is not None:
        grown = after - before
        if (grown.drafted, grown.accepted) == (drafted, accepted):
            return []
        if time.monotonic() > until:
            return [
                f"/metrics counted {grown.drafted} draft tokens, {grown.accepted} accepted; the requests report "
                f"{drafted} and {accepted}: does the server answer others, too?"
            ]
        time.sleep(0.05)
    return []
