"""One stream of tokens being made."""

from __future__ import annotations

import enum

import numpy as np

from paceline.adapters.adapter import Adapter
from paceline.backends.base import IntArray
from paceline.engine.messages import FinishReason, Request, TokenLogprobs
from paceline.kv.cache import BlockTable
from paceline.sampling.grammar import GrammarMatcher
from paceline.sampling.sampler import SampleRow
from paceline.speculation.draft import Draft

CLASS_RANK = {"interactive": 0, "batch": 1}


class State(enum.Enum):
    """Where the scheduler keeps a sequence. Says nothing about its work: that is always known minus computed tokens."""

    HELD = "held"  # behind the sequence of the same request that computes the shared prompt
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """Tokens known so far, how many of them are computed (in the KV cache), and what this step plans.

    The random stream is named by ``(seed, index)``; a token's noise depends on that and on its absolute position only.
    The wish of a sequence is ``length - computed`` rows; behind them the step may verify draft tokens, a row each.
    """

    __slots__ = (
        "_buffer",
        "computed",
        "draft",
        "end",
        "finish_reason",
        "first_scheduled",
        "followers",
        "index",
        "length",
        "min_end",
        "num_accepted",
        "num_cached",
        "num_drafted",
        "num_preemptions",
        "num_steps",
        "order",
        "params",
        "prompt_length",
        "prompt_logprobs",
        "reported",
        "request",
        "rows",
        "sampling",
        "seed",
        "state",
        "stop_ids",
        "table",
        "version",
        "wants_prompt_logprobs",
    )

    def __init__(
        self,
        request: Request,
        index: int,
        table: BlockTable,
        *,
        limit: int,
        eos_ids: frozenset[int],
        serial: int,
        version: Adapter | None = None,
    ) -> None:
        """``limit``: most tokens the sequence may have (context and cache); ``serial``: order of arrival here;
        ``version``: the one of its adapter that it runs with; ``table`` has its key."""
        params = request.params
        outputs = request.outputs[index] if index < len(request.outputs) else []
        assert params.seed is not None, "whoever creates a request draws its seed"
        self.request = request
        self.index = index
        self.params = params
        self.seed: int = params.seed
        self.prompt_length = len(request.prompt_ids)
        self.length = self.prompt_length + len(outputs)
        self._buffer: IntArray = np.empty(self.length + 64, dtype=np.int32)
        self._buffer[: self.prompt_length] = request.prompt_ids
        self._buffer[self.prompt_length : self.length] = outputs
        #: The sequence ends when it has this many tokens.
        self.end = limit if params.max_tokens is None else min(limit, self.prompt_length + params.max_tokens)
        #: Stop tokens count only when the sequence has at least this many tokens with them.
        self.min_end = self.prompt_length + params.min_tokens
        self.stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else eos_ids)
        self.order = (CLASS_RANK[request.latency_class], request.priority, request.arrival_time, serial)
        self.table = table
        self.version = version
        self.state = State.WAITING
        self.followers: list[Sequence] = []
        self.computed = 0
        self.rows = 0  # planned for this step, without draft rows
        self.draft: Draft | None = None  # what this step verifies
        self.sampling: SampleRow | None = None  # made when it first samples, kept over preemptions
        self.wants_prompt_logprobs = False
        self.prompt_logprobs: list[TokenLogprobs | None] = []
        self.finish_reason: FinishReason | None = None
        self.first_scheduled: float | None = None  # time.time()
        self.reported = False  # its first delta is out
        self.num_cached = 0  # prompt tokens found in the prefix cache at first scheduling
        self.num_steps = 0
        self.num_preemptions = 0
        self.num_drafted = 0
        self.num_accepted = 0

    @property
    def key(self) -> tuple[str, int]:
        return self.request.request_id, self.index

    @property
    def adapter(self) -> str | None:
        """Names the weights it runs with: what was learned or cached with others is not its own. None: the base."""
        return self.table.adapter

    @property
    def grammar(self) -> GrammarMatcher | None:
        """The form of its output; None before it first samples, or where it is free."""
        return None if self.sampling is None else self.sampling.state.grammar

    @property
    def class_rank(self) -> int:
        return self.order[0]

    @property
    def pending(self) -> int:
        """Known tokens that are not computed yet; at least 1 while the sequence lives."""
        return self.length - self.computed

    @property
    def draft_rows(self) -> int:
        """Draft tokens that this step verifies."""
        return 0 if self.draft is None else len(self.draft)

    @property
    def num_outputs(self) -> int:
        return self.length - self.prompt_length

    @property
    def token_ids(self) -> IntArray:
        """All known tokens, int32 ``[length]``: a view, valid until the next ``append``."""
        return self._buffer[: self.length]

    @property
    def output_ids(self) -> IntArray:
        """Generated tokens, int32 ``[num_outputs]``: a view, valid until the next ``append``."""
        return self._buffer[self.prompt_length : self.length]

    @property
    def completes(self) -> bool:
        """This step computes the last known token, so it samples."""
        return self.rows > 0 and self.computed + self.rows == self.length

    @property
    def cacheable(self) -> int:
        """Leading tokens that may come from the prefix cache: not the last one, whose logits are wanted, nor prompt
        tokens whose logits still are."""
        if self.wants_prompt_logprobs:
            return max(0, min(self.length, len(self.prompt_logprobs)) - 1)
        return self.length - 1

    def append(self, token_ids: list[int]) -> None:
        """Adds accepted tokens."""
        length = self.length + len(token_ids)
        if length > len(self._buffer):
            grown = np.empty(2 * length, dtype=np.int32)
            grown[: self.length] = self._buffer[: self.length]
            self._buffer = grown
        self._buffer[self.length : length] = token_ids
        self.length = length

    def ending(self, token_ids: list[int]) -> tuple[int, FinishReason | None]:
        """How many of these next tokens the sequence takes, and why it ends there (None: it goes on)."""
        length, grammar = self.length, self.grammar
        for count, token in enumerate(token_ids, 1):
            if token in self.stop_ids and length + count >= self.min_end:
                return count, "stop"
            if grammar is not None and grammar.ends(token_ids[:count]):
                return count, "stop"
            if length + count >= self.end:
                return count, "length"
        return len(token_ids), None

    def __repr__(self) -> str:
        return f"Sequence({self.key}, {self.state.value}, length={self.length}, computed={self.computed})"
