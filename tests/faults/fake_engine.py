"""An engine without a model: a token is a function of seed, sequence and position, as with counter-based noise.

Prompts that begin with one of the constants below make it fail in a chosen way. Runs in the engine process (the
factory is ``fake_engine:build``) and beside the tests, where ``expected`` says what must come out.
"""

from __future__ import annotations

import os
import signal
import time
import zlib
from pathlib import Path

from paceline.engine.messages import (
    AdapterInfo,
    AdapterReply,
    Choice,
    DrafterStats,
    EngineReady,
    EngineStats,
    Request,
    SequenceDelta,
    StepReport,
    StepSpeculation,
    TokenLogprobs,
)
from paceline.engine.options import EngineOptions
from paceline.errors import AdapterError, InvalidRequestError, ModelLoadError

VOCABULARY = 200
DIE_ON_ADD = 901  # the process is killed when the request comes
DIE_AT = 902  # ... in the step that would make output number prompt_ids[1]
RAISE_ON_ADD = 903
REFUSE = 904
RAISE_IN_STEP = 905
HANG = 906  # never gets a token
STEP_S = 0.002
ACCEPTED = 2  # draft tokens a step, of DRAFTED, for requests that want a report; none in a sequence's first step
DRAFTED = 3


def token_at(seed: int, index: int, position: int, adapter: str = "") -> int:
    return zlib.crc32(f"{seed}/{index}/{position}{adapter}".encode()) % VOCABULARY


def expected(request: Request, index: int = 0, adapter: str = "") -> list[int]:
    """All tokens of a sequence that nothing disturbs; ``adapter``: the content of its adapter's file."""
    assert request.params.seed is not None and request.params.max_tokens is not None
    start = len(request.prompt_ids)
    return [token_at(request.params.seed, index, start + i, adapter) for i in range(request.params.max_tokens)]


class FakeSequence:
    def __init__(self, request: Request, index: int, adapter: str) -> None:
        self.request = request
        self.adapter = adapter
        self.index = index
        self.outputs = list(request.outputs[index]) if index < len(request.outputs) else []
        self.new = True
        self.prompt_logprobs_due = request.params.prompt_logprobs is not None and not self.outputs and index == 0

    def count(self) -> int:
        """Tokens of the next step."""
        params = self.request.params
        if self.new or not params.wants_report:
            return 1
        assert params.max_tokens is not None
        return min(ACCEPTED + 1, params.max_tokens - len(self.outputs))

    def next(self) -> SequenceDelta:
        params = self.request.params
        assert params.seed is not None
        delta = SequenceDelta(request_id=self.request.request_id, index=self.index)
        if params.wants_report:
            delta.speculation = self.speculation(self.count() - 1)
        for _ in range(self.count()):
            token = token_at(params.seed, self.index, len(self.request.prompt_ids) + len(self.outputs), self.adapter)
            self.outputs.append(token)
            delta.token_ids.append(token)
        if params.logprobs is not None:
            delta.logprobs = [TokenLogprobs(token, -float(len(self.outputs)), 1, [], [])]
        if self.prompt_logprobs_due:
            self.prompt_logprobs_due = False
            delta.prompt_logprobs = [None, *(TokenLogprobs(t, -1.0, 1, [], []) for t in self.request.prompt_ids[1:])]
        if self.new:
            self.new = False
            delta.queue_time, delta.num_cached_tokens = time.time() - self.request.arrival_time, 3
        if len(self.outputs) == params.max_tokens:
            delta.finish_reason = "length"
        return delta

    def speculation(self, accepted: int) -> StepSpeculation:
        if self.new:
            return StepSpeculation(time=STEP_S, time_without=STEP_S)
        sources = ["suffix"] * accepted
        return StepSpeculation(drafted={"suffix": DRAFTED}, sources=sources, time=STEP_S, time_without=2 * STEP_S)


class FakeEngine:
    def __init__(self) -> None:
        self.sequences: dict[tuple[str, int], FakeSequence] = {}
        self.counters = EngineStats()
        self.adapters: dict[str, str] = {}  # contents of their files
        self.replies: list[AdapterReply] = []

    def load_adapter(self, name: str, path: str, *, replace: bool = False, fingerprint: str = "") -> None:
        """``path`` is a file: its content is the adapter; "bad" is refused later, "kill" kills the process."""
        if not Path(path).exists():
            raise AdapterError(f"there is no adapter at {path}")
        content = Path(path).read_text()
        if content == "kill" and not fingerprint:
            os.kill(os.getpid(), signal.SIGKILL)
        if fingerprint and fingerprint != content:
            raise AdapterError("its files have changed")
        if content == "bad":
            self.replies.append(AdapterReply(name=name, error="wrong shapes"))
            return
        self.adapters[name] = content
        self.replies.append(AdapterReply(name=name, info=AdapterInfo(name=name, path=path, fingerprint=content)))

    def unload_adapter(self, name: str) -> None:
        if self.adapters.pop(name, None) is None:
            raise AdapterError(f"there is no adapter {name!r}")

    def add(self, request: Request) -> None:
        match request.prompt_ids[0]:
            case x if x == DIE_ON_ADD:
                os.kill(os.getpid(), signal.SIGKILL)
            case x if x == RAISE_ON_ADD:
                raise RuntimeError("the tokens are not what they seem")
            case x if x == REFUSE:
                raise InvalidRequestError("the prompt is too long: 9 tokens, the limit is 8")
        if request.adapter is not None and request.adapter not in self.adapters:
            raise InvalidRequestError(f"there is no adapter {request.adapter!r}")
        finished = list(request.finished) + [False] * request.params.n
        for index in range(request.params.n):
            if not finished[index]:
                self.sequences[request.request_id, index] = FakeSequence(
                    request, index, self.adapters.get(request.adapter or "", "")
                )

    def abort(self, request_id: str, index: int | None = None) -> None:
        for key in list(self.sequences):
            if key[0] == request_id and index in (None, key[1]):
                del self.sequences[key]

    def has_work(self) -> bool:
        return bool(self.sequences or self.replies)

    def step(self) -> StepReport:
        time.sleep(STEP_S)
        deltas = []
        for key, sequence in list(self.sequences.items()):
            prompt = sequence.request.prompt_ids
            if prompt[0] == HANG:
                continue
            if prompt[0] == RAISE_IN_STEP:
                raise RuntimeError("the step went wrong")
            if prompt[0] == DIE_AT and len(sequence.outputs) + 1 == prompt[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            deltas.append(sequence.next())
            self.note(deltas[-1])
            if deltas[-1].finish_reason is not None:
                del self.sequences[key]
        self.counters.steps += 1
        self.counters.generation_tokens += sum(len(delta.token_ids) for delta in deltas)
        replies, self.replies = self.replies, []
        return StepReport(deltas=deltas, stats=self.stats(), step_rows=len(deltas), step_time=STEP_S, replies=replies)

    def note(self, delta: SequenceDelta) -> None:
        if delta.speculation is None:
            return
        drafter = "suffix" if delta.speculation.drafted else "none"
        self.counters.decisions[drafter] = self.counters.decisions.get(drafter, 0) + 1
        if drafter == "none":
            return
        if not self.counters.drafters:
            self.counters.drafters = [DrafterStats(drafter="suffix")]
        (stats,) = self.counters.drafters
        stats.drafts += 1
        stats.draft_tokens += DRAFTED
        stats.accepted_tokens += len(delta.speculation.sources)
        stats.accepted_per_position = [n + 1 for n in stats.accepted_per_position or [0] * ACCEPTED]
        self.counters.draft_tokens += DRAFTED

    def stats(self) -> EngineStats:
        self.counters.running = len(self.sequences)
        return self.counters


def build(options: EngineOptions) -> tuple[FakeEngine, EngineReady]:
    """``options.model``: "missing" fails to load, "crash" dies, a path dies unless that file exists, a number is the
    limit of running sequences."""
    if options.model == "missing":
        raise ModelLoadError("there is no such model")
    if options.model == "crash" or (options.model.startswith("/") and not Path(options.model).exists()):
        os._exit(7)
    limit = int(options.model) if options.model.isdecimal() else 1000
    ready = EngineReady(
        model="fake",
        context_length=4096,
        vocab_size=VOCABULARY,
        max_queue=options.max_queue or 1000,
        max_running=limit,
        choices=[Choice("backend", "fake", "a test")],
        drafters=["suffix"],
    )
    engine = FakeEngine()
    for name, path in options.adapters.items():
        engine.load_adapter(name, path)
    for reply in engine.replies:
        if reply.info is None:
            raise AdapterError(reply.error or "")
        ready.adapters.append(reply.info)
    engine.replies.clear()
    return engine, ready
