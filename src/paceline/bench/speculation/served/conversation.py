"""Conversations with a server: each keeps its place through its turns, the server's real answers are fed back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from paceline.bench.client import Timeline
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.points import Point
from paceline.bench.speculation.served.server import Server
from paceline.bench.speculation.turns import Pass, Turn

Indexed = tuple[int, Planned]


def turn_of(timeline: Timeline, problems: list[str], name: str) -> Turn:
    """What a streamed answer tells. Where the server reports the request's steps (``usage.speculation``) they are
    checked against its tokens and the stream's chunks; what cannot be goes to ``problems``."""
    turn = Turn(timeline.sent, timeline.prompt_tokens, timeline.arrivals[0], timeline.arrivals[-1])
    turn.counted, turn.text, turn.chunks = timeline.tokens, timeline.text, len(timeline.arrivals)
    report: Mapping[str, Any] | None = timeline.usage.get("speculation")
    if report is None:
        turn.prefill_tokens = 1
        return turn
    for length, count in enumerate(report["histogram"]):
        turn.lengths += [length] * count
    turn.prefill_tokens = int(report["prefill_steps"])
    by_drafter: Mapping[str, Mapping[str, int]] = report["by_drafter"]
    turn.drafted = Counter({drafter: entry["drafted"] for drafter, entry in by_drafter.items()})
    turn.accepted = Counter({drafter: entry["accepted"] for drafter, entry in by_drafter.items()})
    turn.time, turn.time_without = report["time_s"], report["estimated_time_without_s"]
    steps = len(turn.lengths) + turn.prefill_tokens
    told = sum(turn.lengths) + turn.prefill_tokens
    if told != turn.tokens:
        problems.append(f"{name}: the engine's steps gave {told} tokens, the answer has {turn.tokens}")
    if turn.chunks > steps:
        problems.append(f"{name}: the stream has {turn.chunks} chunks, the engine counted only {steps} steps")
    return turn


class Conversations:
    """One pass through a server. ``speculative``: what requests say about drafts; None: nothing. ``openings``: tokens
    of first requests by their conversations' keys, as far as they are known."""

    def __init__(
        self,
        server: Server,
        point: Point,
        speculative: Mapping[str, Any] | None,
        passed: Pass,
        openings: Mapping[str, int],
    ) -> None:
        self.server = server
        self.point = point
        self.speculative = speculative
        self.passed = passed
        self.openings = openings

    async def run(self, planned: Sequence[Indexed]) -> None:
        """All of them, ``point.concurrency`` at a time. Raises ``EndpointError`` for the first request that fails."""
        places = asyncio.Semaphore(self.point.concurrency)

        async def hold(index: int, one: Planned) -> None:
            async with places:
                await self._talk(index, one)

        try:
            async with asyncio.TaskGroup() as group:
                for index, one in planned:
                    group.create_task(hold(index, one))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _talk(self, index: int, one: Planned) -> None:
        messages = one.conversation.opening()
        for number, _ in enumerate(one.conversation.turns):
            if number:
                messages.append({"role": "user", "content": one.conversation.turns[number]})
            used = None if number else self.openings.get(one.conversation.key)
            most = await asyncio.to_thread(self._most_tokens, messages, used)
            if most < 1:
                self.passed.cut_short += 1
                return
            seed = 1000 * index + number
            timeline = await self.server.answer(messages, most, self.point.temperature, seed, self.speculative)
            name = f"prompt {one.conversation.key}, turn {number + 1}"
            self.passed.turns[index, number] = turn_of(timeline, self.passed.problems, name)
            details = timeline.usage.get("prompt_tokens_details") or {}
            self.passed.cached_tokens += int(details.get("cached_tokens") or 0)
            messages.append({"role": "assistant", "content": timeline.text})

    def _most_tokens(self, messages: Sequence[dict[str, str]], used: int | None) -> int:
        """Room for the answer: what the prompt (``used`` tokens) leaves of the context, where the server tells that,
        and at most the cap."""
        length = self.server.context_length
        used = self.server.tokens(messages) if used is None and length is not None else used
        return self.point.max_tokens if used is None or length is None else min(self.point.max_tokens, length - used)
