"""What crosses the boundary between whoever holds the client's text (server, ``LLM``) and the engine.

Plain msgspec structs: the engine may run in this process or in its own, behind a ZeroMQ socket.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from paceline.sampling.outputs import TokenLogprobs as TokenLogprobs
from paceline.sampling.params import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]
LatencyClass = Literal["interactive", "batch"]


class Request(msgspec.Struct, kw_only=True, omit_defaults=True, tag=True):
    """What the client asked, in tokens. ``params.n`` sequences are made from one prompt.

    ``params.seed`` is always set here (whoever creates the request draws one when the client gave none), so that a
    resubmitted request continues its random stream. ``outputs[i]`` are tokens that sequence ``i`` already has: a
    request resubmitted after an engine restart goes on behind them; ``finished[i]`` marks sequences not to resume.
    """

    request_id: str
    prompt_ids: list[int]
    params: SamplingParams
    arrival_time: float  # time.time(), seconds
    adapter: str | None = None
    priority: int = 0  # lower is served first
    latency_class: LatencyClass = "interactive"
    outputs: list[list[int]] = msgspec.field(default_factory=list)
    finished: list[bool] = msgspec.field(default_factory=list)


class Abort(msgspec.Struct, kw_only=True, omit_defaults=True, tag=True):
    """The client is gone, or a stop string ended sequence ``index`` (None: all sequences of the request)."""

    request_id: str
    index: int | None = None


class LoadAdapter(msgspec.Struct, kw_only=True, omit_defaults=True, tag=True):
    """Load the adapter in the folder ``path`` under ``name``. ``replace``: in place of one that has the name.
    ``fingerprint``: its files as an engine before this one knew them; others are refused. Answered by an
    ``AdapterReply`` in a report."""

    name: str
    path: str
    replace: bool = False
    fingerprint: str = ""


class UnloadAdapter(msgspec.Struct, kw_only=True, omit_defaults=True, tag=True):
    """No request may name the adapter any more; it goes with its last sequence. Answered at once."""

    name: str


class SpeculatorInfo(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """What drafts for an adapter: at most ``positions`` tokens, out of ``vocab_size``. ``nbytes``: its memory, with its
    cache."""

    positions: int
    vocab_size: int
    nbytes: int


class AdapterInfo(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """An adapter that requests may name. ``fingerprint`` stands for its files as they were when it was loaded,
    ``version`` for this loading of it in this engine. ``nbytes``: memory of its copy, its speculator included."""

    name: str
    path: str
    fingerprint: str = ""
    version: int = 0
    nbytes: int = 0
    speculator: SpeculatorInfo | None = None

    @property
    def kind(self) -> str:
        """For people: with a speculator of its own it is a "Turbo LoRA"."""
        return "LoRA" if self.speculator is None else "Turbo LoRA"


class AdapterReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The answer to a ``LoadAdapter`` (``info``) or ``UnloadAdapter`` (neither), or why it was refused."""

    name: str
    info: AdapterInfo | None = None
    error: str | None = None


class UseSpeculator(msgspec.Struct, kw_only=True, omit_defaults=True, tag=True):
    """The base model drafts with the speculator in the folder ``path`` from now on; None: with the one of the start, if
    there was one. Answered by a ``SpeculatorReply`` in a report, one for each, in order."""

    path: str | None = None


class SpeculatorReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The speculator is in use (``info``; None: there is none now), or why it is not: then nothing has changed."""

    info: SpeculatorInfo | None = None
    error: str | None = None


class SequenceDrafts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How drafts fared in a whole sequence: steps that it was in, draft tokens verified and accepted. Of a sequence
    that an engine before this one began: since then."""

    steps: int = 0
    drafted: int = 0
    accepted: int = 0


class StepSpeculation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What speculation did for one sequence in one step; for requests with ``speculative.report``.

    ``sources``: the proposer of each accepted draft token, in order: they are the delta's first tokens, the last one
    is the target's own. ``drafted``: draft tokens verified, by drafter. ``time``: seconds of the step;
    ``time_without``: seconds in which the same tokens would have come without drafts, by the engine's cost table.
    """

    drafted: dict[str, int] = msgspec.field(default_factory=dict)
    sources: list[str] = msgspec.field(default_factory=list)
    time: float = 0.0
    time_without: float = 0.0


class SequenceDelta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """New tokens of one sequence from one step. ``finish_reason`` is set on the last one. A stop token (end of
    sequence or one of ``stop_token_ids``) is included as the last of ``token_ids``, and named by ``stop_token``."""

    request_id: str
    index: int = 0
    token_ids: list[int] = msgspec.field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None  # one for each of token_ids, when asked for
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # once, complete; the first entry is None
    finish_reason: FinishReason | None = None
    stop_token: int | None = None
    error: str | None = None  # with finish_reason "error"
    num_cached_tokens: int = 0  # prompt tokens found in the prefix cache (first delta)
    queue_time: float | None = None  # seconds from arrival to first being scheduled (first delta)
    speculation: StepSpeculation | None = None  # when the request wants a report
    drafts: SequenceDrafts | None = None  # on the last one, where the sequence ended by itself


class DrafterStats(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Counters of one drafter for one adapter ("": the base model). Only what was verified counts."""

    drafter: str
    adapter: str = ""
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = msgspec.field(default_factory=list)
    drafted_per_position: list[int] = msgspec.field(default_factory=list)


class AdapterStats(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Counters of one adapter, all its versions together; ``running`` and ``waiting`` are sequences as of now. A load
    reads files or fills a slot; an eviction gives its slot to another adapter."""

    adapter: str
    requests: int = 0
    generation_tokens: int = 0
    running: int = 0
    waiting: int = 0
    loads: int = 0
    evictions: int = 0
    load_seconds: float = 0.0


class EngineStats(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Gauges as of now and counters since the engine started; names as in the metrics."""

    running: int = 0
    waiting: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    prefix_cache_queries: int = 0  # tokens looked up
    prefix_cache_hits: int = 0  # tokens found
    preemptions: int = 0
    steps: int = 0
    rows: int = 0  # tokens computed
    step_seconds: float = 0.0
    prompt_tokens: int = 0  # prompt tokens computed (not taken from the cache)
    generation_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    adapters: list[AdapterStats] = msgspec.field(default_factory=list)  # those that were ever used
    drafters: list[DrafterStats] = msgspec.field(default_factory=list)
    decisions: dict[str, int] = msgspec.field(default_factory=dict)  # sequences a step, by drafter; "none": no draft
    predicted_seconds: float = 0.0  # of the steps that the cost table predicted
    realised_seconds: float = 0.0  # of the same steps
    drafting_seconds: float = 0.0  # drafters and controller


class StepReport(msgspec.Struct, kw_only=True, omit_defaults=True, tag=True):
    """What the engine process sends after a step (or, with no deltas, when idle)."""

    deltas: list[SequenceDelta]
    stats: EngineStats | None = None
    step_rows: int = 0  # rows of this step
    step_time: float = 0.0  # seconds of this step
    replies: list[AdapterReply] = msgspec.field(default_factory=list)
    speculator_replies: list[SpeculatorReply] = msgspec.field(default_factory=list)


class Choice(msgspec.Struct):
    """One automatic choice, for the user to read at start."""

    name: str
    value: str
    reason: str


class EngineReady(msgspec.Struct, kw_only=True, tag=True):
    """Sent once, when the engine process has loaded the model."""

    model: str
    context_length: int
    vocab_size: int
    max_queue: int
    choices: list[Choice]
    max_running: int = 1  # most sequences in one step
    backend: str = ""
    path: str = ""  # of the model's local files: the tokenizer is there too
    drafters: list[str] = msgspec.field(default_factory=list)  # that may propose; empty: speculation is off
    adapters: list[AdapterInfo] = msgspec.field(default_factory=list)  # loaded at the start
    speculator: str | None = None  # folder of the base model's; None: there is none


class EngineFailed(msgspec.Struct, kw_only=True, tag=True):
    """Sent instead of ``EngineReady`` when the model cannot be loaded; the process then ends."""

    message: str
