"""Conversations through an engine in this process, a fixed number of them at a time.

A conversation keeps its place through all its turns; the next one starts when it ends (SPEED-Bench's client).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paceline.bench.speculation.workloads import Conversation, Message
from paceline.engine.messages import EngineStats, Request, SequenceDelta, StepReport
from paceline.errors import PacelineError
from paceline.models.tokenizer import Tokenizer
from paceline.sampling.params import SamplingParams
from paceline.sampling.speculative import Speculative

COUNTERS = (
    "steps", "step_seconds", "drafting_seconds", "prompt_tokens", "generation_tokens", "draft_tokens",
    "accepted_tokens", "predicted_seconds", "realised_seconds", "preemptions",
)  # fmt: skip


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
class Turn:
    """One request: when its tokens came (``time.perf_counter()``, seconds) and in which steps.

    ``lengths``: tokens of each verification step, that is of every step after the prefill's.
    """

    sent: float
    prompt_tokens: int
    first: float = 0.0
    last: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    prefill_tokens: int = 0  # that came with the prefill: one, unless drafts were verified in it
    lengths: list[int] = field(default_factory=list)
    drafted: Counter[str] = field(default_factory=Counter)  # draft tokens by drafter
    accepted: Counter[str] = field(default_factory=Counter)
    drafted_steps: int = 0  # verification steps with a draft
    time: float = 0.0  # of its steps, as the engine reports them
    time_without: float = 0.0  # and what the engine believes they would have taken without drafts

    def take(self, delta: SequenceDelta, now: float) -> None:
        """Notes what one step brought."""
        if not delta.token_ids:
            return
        if self.token_ids:
            self.lengths.append(len(delta.token_ids))
        else:
            self.first, self.prefill_tokens = now, len(delta.token_ids)
        self.token_ids += delta.token_ids
        self.last = now
        if (report := delta.speculation) is not None:
            self.drafted.update(report.drafted)
            self.accepted.update(report.sources)
            self.drafted_steps += any(report.drafted.values())
            self.time += report.time
            self.time_without += report.time_without

    @property
    def user_rate(self) -> float | None:
        """SPEED-Bench's user TPS: tokens a second after the first ones; None when there are none."""
        later = len(self.token_ids) - self.prefill_tokens
        return later / (self.last - self.first) if later and self.last > self.first else None

    @property
    def seconds(self) -> float:
        """From sending to the last token, prefill included."""
        return self.last - self.sent


@dataclass(slots=True)
class Pass:
    """One run through the prompts. ``turns`` by (conversation, turn); ``counters``: what the engine counted in it.

    ``full_seconds``, ``full_tokens``: the part in which all places were taken. ``cut_short``: conversations whose next
    turn no longer fitted the context.
    """

    speculative: bool
    turns: dict[tuple[int, int], Turn] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    decisions: Counter[str] = field(default_factory=Counter)
    full_seconds: float = 0.0
    full_tokens: int = 0
    cut_short: int = 0

    @property
    def tokens(self) -> int:
        return sum(len(turn.token_ids) for turn in self.turns.values())

    @property
    def output_rate(self) -> float:
        """All output tokens / (last token - first request sent)."""
        turns = self.turns.values()
        return self.tokens / (max(turn.last for turn in turns) - min(turn.sent for turn in turns))

    @property
    def pooled_user_rate(self) -> float | None:
        """User TPS of all turns together: their tokens after the first ones / the seconds in which these came, summed
        over the turns. None when no turn has such tokens."""
        turns = [turn for turn in self.turns.values() if turn.user_rate is not None]
        seconds = sum(turn.last - turn.first for turn in turns)
        return sum(len(turn.token_ids) - turn.prefill_tokens for turn in turns) / seconds if seconds else None

    @property
    def full_rate(self) -> float | None:
        """Output tokens a second while all places were taken."""
        return self.full_tokens / self.full_seconds if self.full_seconds else None

    def miscounts(self) -> list[str]:
        """Where the engine's counters and what came out of it disagree."""
        turns = self.turns.values()
        seen = {
            "generation_tokens": self.tokens,
            "accepted_tokens": sum(turn.accepted.total() for turn in turns),
            "draft_tokens": sum(turn.drafted.total() for turn in turns),
        }
        return [
            f"the engine counted {self.counters[name]:.0f} {name}, the answers {count}"
            for name, count in seen.items()
            if self.counters[name] != count
        ]


@dataclass(slots=True)
class ClosedLoop:
    """Runs ``planned`` with ``load`` conversations at a time, each turn with at most ``max_tokens`` of output.

    The first answers of those that start together end in turns: the i-th has at most ``i / load`` of the tokens.
    Without that they would all run into the limit in one step, their successors' prompts would be computed side by
    side, and so on: no decode would ever wait for another's prompt, as it does under real load, while with drafts,
    whose answers end at different times, it would.
    """

    engine: StepEngine
    prompter: Prompter
    load: int
    max_tokens: int
    temperature: float
    speculative: bool
    adapter: str | None = None
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
            max_tokens=self._most(index, turn),
            temperature=self.temperature,
            seed=1000 * index + turn,  # sampled texts are the same in every pass, too
            speculative=Speculative(enabled=self.speculative, report=self.speculative),
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

    def _most(self, index: int, turn: int) -> int:
        if turn or index >= self.load:
            return self.max_tokens
        return max(1, self.max_tokens * (index + 1) // self.load)

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
            self._go_on(index, turn + 1, [*messages, {"role": "assistant", "content": self.prompter.text(answer)}])
        return len(delta.token_ids)

    def _go_on(self, index: int, turn: int, messages: list[Message]) -> None:
        turns = self._planned[index].conversation.turns
        if turn == len(turns):
            return
        messages.append({"role": "user", "content": turns[turn]})
        prompt_ids = self.prompter.ids(messages)
        if len(prompt_ids) + self.max_tokens > self.engine.context_length:
            self._result.cut_short += 1
        else:
            self._send(index, turn, messages, prompt_ids)


def snapshot(stats: EngineStats) -> dict[str, float]:
    """The counters as they are now (the engine's own object goes on counting)."""
    return {name: getattr(stats, name) for name in COUNTERS}
