"""An engine on a clock of its own that answers what it is told to, in steps of scripted lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from paceline.bench.speculation.closed_loop import Message, Planned
from paceline.bench.speculation.turns import Turn
from paceline.bench.speculation.workloads import Conversation
from paceline.engine.messages import EngineStats, Request, SequenceDelta, StepReport, StepSpeculation
from paceline.speculation.reliability import ReliabilityBin

STOP = 0


class LetterPrompter:
    """A token a character; the roles' initials before the texts."""

    def ids(self, messages: Sequence[Message]) -> list[int]:
        return [ord(letter) for message in messages for letter in f"{message['role'][0]}:{message['content']} "]

    def text(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))


@dataclass
class ScriptedEngine:
    """Answers every prompt with ``answer(prompt text)`` and a stop token: one token in the first step, then, for
    requests that may be drafted for, ``length`` a step (all but the last of each step drafted and accepted, and one
    more drafted). A step takes ``step_seconds`` of ``clock``."""

    answer: Callable[[str], str]
    length: int = 3
    step_seconds: float = 0.01
    context_length: int = 1000
    clock: float = 0.0
    requests: list[Request] = field(default_factory=list)
    most_open: int = 0
    miscount: int = 0
    _open: dict[str, tuple[Request, list[int]]] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)
    _stats: EngineStats = field(default_factory=EngineStats)

    def now(self) -> float:
        return self.clock

    def speculation_reliability(self) -> list[ReliabilityBin]:
        return []

    def add(self, request: Request) -> None:
        tokens = [*map(ord, self.answer("".join(map(chr, request.prompt_ids)))), STOP][: request.params.max_tokens]
        self.requests.append(request)
        self._begun.discard(request.request_id)
        self._open[request.request_id] = (request, tokens)
        self.most_open = max(self.most_open, len(self._open))

    def stats(self) -> EngineStats:
        return self._stats

    def step(self) -> StepReport:
        self.clock += self.step_seconds
        self._stats.steps += 1
        self._stats.step_seconds += self.step_seconds
        return StepReport(deltas=[self._advance(name) for name in list(self._open)])

    def _advance(self, name: str) -> SequenceDelta:
        request, left = self._open[name]
        begun = name in self._begun
        self._begun.add(name)
        wish = request.params.speculative
        drafts = begun and wish is not None and wish.enabled
        taken = left[: self.length if drafts else 1]
        del left[: len(taken)]
        delta = SequenceDelta(request_id=name, token_ids=taken)
        accepted = len(taken) - 1
        self._stats.generation_tokens += len(taken) + self.miscount
        if drafts:
            self._stats.accepted_tokens += accepted
            self._stats.draft_tokens += accepted + 1
            self._stats.drafting_seconds += 0.02 * self.step_seconds
            delta.speculation = StepSpeculation(
                drafted={"suffix": accepted + 1}, sources=["suffix"] * accepted, time=0.01, time_without=0.02
            )
        if not left:
            del self._open[name]
            delta.finish_reason = "stop" if taken[-1] == STOP else "length"
            delta.stop_token = STOP if taken[-1] == STOP else None
        return delta


class Session:
    """A session on a scripted engine, which notes how much it had answered each time that it forgot."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.tokenizer = None
        self.renewed: list[int] = []

    def renew(self) -> None:
        self.renewed.append(len(self.engine.requests))


def plan(*turns: Sequence[str], categories: Sequence[str] = ()) -> list[Planned]:
    """A planned conversation for each list of turns."""
    planned = []
    for number, texts in enumerate(turns):
        category = categories[number] if categories else ""
        conversation = Conversation(f"p{number}", category, tuple(texts))
        planned.append(Planned(conversation, LetterPrompter().ids(conversation.opening())))
    return planned


def turn(lengths: Sequence[int], *, seconds: float = 1.0, prefill: int = 1, wait: float = 0.0) -> Turn:
    """A turn of these steps, whose first token came after ``wait`` and whose last one ``seconds`` later."""
    tokens = list(range(prefill + sum(lengths)))
    return Turn(0.0, 5, wait, wait + seconds, tokens, prefill, list(lengths))
