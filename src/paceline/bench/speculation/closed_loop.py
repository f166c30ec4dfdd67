"""Conversations through an engine in this process, a fixed number of them at a time.

A conversation keeps its place through all its turns; the next one starts when it ends (SPEED-Bench's client).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paceline.bench.speculation.turns import COUNTERS, Pass, Turn
from paceline.bench.speculation.workloads import Conversation, Message
from paceline.engine.messages import EngineStats, Request, SequenceDelta, StepReport
from paceline.errors import PacelineError
from paceline.models.tokenizer import Tokenizer
from paceline.sampling.params import SamplingParams
from paceline.sampling.speculative import Speculative


class StepEngine(Protocol):
    """What is needed of an ``Engine``."""

    @property
    def context_length(self) -> int: ...

    def add(self, request: Request) -> None: ...

    def step(self) -> StepReport: ...

    def stats(self) -> EngineStats: ...


class Prompter:
    """Messages -> token ids as the model reads them, and back. Without a chat template the texts stand one below the
    other."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.chat = tokenizer.has_chat_template

    def ids(self, messages: Sequence[Message]) -> list[int]:
        if self.chat:
            return self.tokenizer.encode(self.tokenizer.apply_chat_template(messages), add_special_tokens=False)
        return self.tokenizer.encode("\n\n".join(message["content"] for message in messages) + "\n\n")

    def text(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)


@dataclass(frozen=True, slots=True)
class Planned:
    """A conversation with its first prompt, made before the clock runs."""

    conversation: Conversation
    prompt_ids: list[int]


@dataclass(slots=True)
class ClosedLoop:
    """Runs ``planned`` with ``load`` conversations at a time, each turn with at most ``max_tokens`` of output.

    The first answers of those that start together end in turns: the i-th has at most ``i / load`` of the tokens.
    Without that they would all run into the limit in one step, their successors' prompts would be computed side by
    side, and so on: no decode would ever wait for another's prompt, as it does under real load, while with drafts,
    whose answers end at different times, it would. SPEED-Bench's client does not do that: ``staggered`` False.

    ``max_draft``: most draft tokens of a step; None: as the engine is configured. ``fill``: a prompt that leaves less
    room than ``max_tokens`` is answered up to the end of the context, as servers do; otherwise its conversation ends.
    """

    engine: StepEngine
    prompter: Prompter
    load: int
    max_tokens: int
    temperature: float
    speculative: bool
    adapter: str | None = None
    max_draft: int | None = None
    staggered: bool = True
    fill: bool = False
    _open: dict[str, tuple[int, int, list[Message]]] = field(default_factory=dict)
    _planned: Sequence[Planned] = ()
    _result: Pass = field(init=False)

    def run(self, planned: Sequence[Planned]) -> Pass:
        """Raises ``PacelineError`` when the engine gives up on a request."""
        self._planned = planned
        self._result = result = Pass(self.speculative)
        before, decided = snapshot(self.engine.stats()), Counter(self.engine.stats().decisions)
        waiting = deque(range(len(planned)))
        tick = time.perf_counter()
        while waiting or self._open:
            while waiting and len(self._open) < self.load:
                index = waiting.popleft()
                self._send(index, 0, planned[index].conversation.opening(), planned[index].prompt_ids)
            full = len(self._open) == self.load
            deltas = self.engine.step().deltas
            now = time.perf_counter()
            tokens = sum(self._take(delta, now) for delta in deltas)
            if full:
                result.full_seconds += now - tick
                result.full_tokens += tokens
            tick = now
        after = snapshot(self.engine.stats())
        result.counters = {name: after[name] - before[name] for name in COUNTERS}
        result.decisions = Counter(self.engine.stats().decisions) - decided
        return result

    def _send(self, index: int, turn: int, messages: list[Message], prompt_ids: list[int]) -> None:
        name = f"{index}/{turn}"
        params = SamplingParams(
            max_tokens=self._most(index, turn, len(prompt_ids)),
            temperature=self.temperature,
            seed=1000 * index + turn,  # sampled texts are the same in every pass, too
            speculative=Speculative(
                enabled=self.speculative,
                max_draft=self.max_draft if self.speculative else None,
                report=self.speculative,
            ),
        )
        self._open[name] = (index, turn, messages)
        self._result.turns[index, turn] = Turn(time.perf_counter(), len(prompt_ids))
        self.engine.add(
            Request(
                request_id=name,
                prompt_ids=prompt_ids,
                params=params,
                arrival_time=time.time(),
                adapter=self.adapter,
            )
        )

    def _most(self, index: int, turn: int, prompt_tokens: int) -> int:
        most = self.max_tokens
        if self.fill:
            most = min(most, self.engine.context_length - prompt_tokens)
        if turn or index >= self.load or not self.staggered:
            return most
        return max(1, most * (index + 1) // self.load)

    def _take(self, delta: SequenceDelta, now: float) -> int:
        """Notes a delta, and sends the conversation's next turn when it was a turn's last; its number of tokens."""
        index, turn, messages = self._open[delta.request_id]
        if delta.finish_reason in ("error", "abort"):
            raise PacelineError(f"the engine could not go on with prompt {index}: {delta.error or 'aborted'}")
        record = self._result.turns[index, turn]
        record.take(delta, now)
        if delta.finish_reason is not None:
            del self._open[delta.request_id]
            answer = record.token_ids[:-1] if delta.stop_token is not None else record.token_ids
            record.text = self.prompter.text(answer)
            self._go_on(index, turn + 1, [*messages, {"role": "assistant", "content": record.text}])
        return len(delta.token_ids)

    def _go_on(self, index: int, turn: int, messages: list[Message]) -> None:
        turns = self._planned[index].conversation.turns
        if turn == len(turns):
            return
        messages.append({"role": "user", "content": turns[turn]})
        prompt_ids = self.prompter.ids(messages)
        if len(prompt_ids) + (1 if self.fill else self.max_tokens) > self.engine.context_length:
            self._result.cut_short += 1
        else:
            self._send(index, turn, messages, prompt_ids)


def snapshot(stats: EngineStats) -> dict[str, float]:
    """The counters as they are now (the engine's own object goes on counting)."""
    return {name: getattr(stats, name) for name in COUNTERS}
