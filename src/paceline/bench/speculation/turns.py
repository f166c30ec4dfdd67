"""What is noted of requests while they are measured: one turn of a conversation, and one run through all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from paceline.bench.speculation.step_counts import StepCounts
from paceline.engine.messages import SequenceDelta

COUNTERS = (
    "steps", "step_seconds", "drafting_seconds", "prompt_tokens", "generation_tokens", "draft_tokens",
    "accepted_tokens", "predicted_seconds", "realised_seconds", "preemptions",
)  # fmt: skip


@dataclass(slots=True)
class Turn:
    """One request: when its tokens came (``time.perf_counter()``, seconds) and in which steps.

    ``lengths``: tokens of each verification step, that is of every step but a prefill's that had nothing to verify; in
    no order where a server tells them as a histogram, and none where it does not tell them. A server also gives a text
    instead of ``token_ids`` and their number as ``counted``.
    """

    sent: float
    prompt_tokens: int
    first: float = 0.0
    last: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    prefill_tokens: int = 0  # that came of no verification: one, or none where the prefill verified drafts
    lengths: list[int] = field(default_factory=list)
    drafted: Counter[str] = field(default_factory=Counter)  # draft tokens by drafter
    accepted: Counter[str] = field(default_factory=Counter)
    drafted_steps: int = 0  # verification steps with a draft
    time: float = 0.0  # of its steps, as the engine reports them
    time_without: float = 0.0  # and what the engine believes they would have taken without drafts
    first_tokens: int = 1  # that came together at ``first``
    counted: int = 0
    text: str = ""
    chunks: int = 0  # of the stream, from the first one with text

    def take(self, delta: SequenceDelta, now: float) -> None:
        """Notes what one step brought."""
        if not delta.token_ids:
            return
        verified = delta.speculation is not None and any(delta.speculation.drafted.values())
        if not self.token_ids:
            self.first, self.first_tokens = now, len(delta.token_ids)
        if self.token_ids or verified:
            self.lengths.append(len(delta.token_ids))
        else:
            self.prefill_tokens = len(delta.token_ids)
        self.token_ids += delta.token_ids
        self.last = now
        if (report := delta.speculation) is not None:
            self.drafted.update(report.drafted)
            self.accepted.update(report.sources)
            self.drafted_steps += verified
            self.time += report.time
            self.time_without += report.time_without

    @property
    def tokens(self) -> int:
        """Output tokens, the end of sequence included."""
        return len(self.token_ids) or self.counted

    @property
    def later_tokens(self) -> int:
        """Output tokens behind the first ones."""
        return self.tokens - self.first_tokens

    @property
    def user_rate(self) -> float | None:
        """SPEED-Bench's user TPS: tokens a second after the first ones; None when there are none."""
        later = self.later_tokens
        return later / (self.last - self.first) if later > 0 and self.last > self.first else None

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first token."""
        return self.first - self.sent

    @property
    def seconds(self) -> float:
        """From sending to the last token, prefill included."""
        return self.last - self.sent


@dataclass(slots=True)
class Pass:
    """One run through the prompts. ``turns`` by (conversation, turn); ``counters``: what the engine counted in it.

    ``full_seconds``, ``full_tokens``: the part in which all places were taken. ``cached_tokens``: of prompts, that a
    server had in its prefix cache. ``cut_short``: conversations whose next
    turn no longer fitted the context. ``problems``: what a server told that cannot be, one line each;
    ``notes``: what of it is worth knowing. ``counted``: where a server tells no request's steps, what its counters said
    of each category.
    """

    speculative: bool
    turns: dict[tuple[int, int], Turn] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    decisions: Counter[str] = field(default_factory=Counter)
    full_seconds: float = 0.0
    full_tokens: int = 0
    cut_short: int = 0
    cached_tokens: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counted: dict[str, StepCounts] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return sum(turn.tokens for turn in self.turns.values())

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
        return sum(turn.later_tokens for turn in turns) / seconds if seconds else None

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
        return self.problems + [
            f"the engine counted {self.counters[name]:.0f} {name}, the answers {count}"
            for name, count in seen.items()
            if self.counters.get(name, count) != count  # a server's counters are not its requests' alone
        ]
