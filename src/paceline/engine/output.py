"""What a client sees of its request: engine deltas become text, whole or as a stream.

This is the client's side of the process boundary: the server and ``LLM`` use it, the engine never does. A stop string
ends a sequence here; the caller then tells the engine to abort it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paceline.engine.detokenizer import TokenBytes
from paceline.engine.messages import FinishReason, Request, SequenceDelta, TokenLogprobs
from paceline.engine.speculation_report import SpeculationReport, total
from paceline.engine.stop_strings import StopStrings


@dataclass(slots=True)
class SequenceOutput:
    """One sequence: all of it, or (in a stream) what came new.

    ``text_offsets[i]`` is the position in the sequence's text, in characters, at which token ``i`` begins; a token
    that only continues a character stands where that character will. ``stop_reason`` is the stop string or the id
    from ``stop_token_ids`` that ended the sequence, None for the model's own end of sequence. ``error`` comes with
    ``finish_reason`` "error".

    With ``speculative.report``, ``sources[i]`` is the drafter that proposed token ``i``, "" for the target's own, and
    ``speculation`` is about the sequence so far, in a stream's parts, too.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    text_offsets: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    sources: list[str] = field(default_factory=list)
    speculation: SpeculationReport | None = None

    @property
    def cumulative_logprob(self) -> float | None:
        """Sum of the chosen tokens' log probabilities; None when logprobs were not asked for."""
        return None if self.logprobs is None else sum(entry.logprob for entry in self.logprobs)


@dataclass(slots=True)
class RequestOutput:
    """Everything about one request. ``outputs`` are its ``n`` sequences in order of their index; ``speculation`` sums
    over them, with ``speculative.report``."""

    request_id: str
    prompt_ids: list[int]
    outputs: list[SequenceOutput]
    finished: bool
    prompt: str | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    queue_time: float | None = None
    speculation: SpeculationReport | None = None


class SequenceText:
    """Makes the text of one sequence.

    Text that could be the beginning of a stop string is held back until it is clear; an incomplete character at the
    end of a sequence is dropped. Tokens behind the one that completes a stop string are dropped with it, so the
    result does not depend on how many tokens come in one delta.
    """

    def __init__(self, request: Request, index: int, table: TokenBytes, stops: StopStrings | None) -> None:
        self._params = request.params
        self._detokenizer = table.detokenizer(request.prompt_ids, request.params.skip_special_tokens)
        self._stops = stops
        self._state = 0
        self._held = ""
        self._decoded = 0  # characters decoded so far, those held back included
        self._parts: list[str] = []
        self.report = SpeculationReport() if request.params.wants_report else None
        self._whole = SequenceOutput(index, speculation=self.report)

    @property
    def finished(self) -> bool:
        return self._whole.finish_reason is not None

    @property
    def output(self) -> SequenceOutput:
        """Everything so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        self._whole.text = self._parts[0] if self._parts else ""
        return self._whole

    def add(self, delta: SequenceDelta) -> SequenceOutput:
        """Takes new tokens and gives what is new for the client. A ``finish_reason`` that ``delta`` does not have
        means that a stop string ended the sequence."""
        assert not self.finished
        new = SequenceOutput(self._whole.index, error=delta.error, speculation=self.report)
        new.finish_reason = delta.finish_reason
        if delta.stop_token is not None and delta.stop_token in self._params.stop_token_ids:
            new.stop_reason = delta.stop_token
        new.text = self._decode(delta, new)
        new.token_ids = delta.token_ids[: len(new.text_offsets)]
        if delta.logprobs is not None:
            new.logprobs = delta.logprobs[: len(new.text_offsets)]
        if self.report is not None:
            new.sources = self.report.add_step(len(new.token_ids), delta.speculation)
        if new.finish_reason is not None and not isinstance(new.stop_reason, str):
            new.text += self._held
        self._keep(new)
        return new

    def _decode(self, delta: SequenceDelta, new: SequenceOutput) -> str:
        """The text to show; fills the offsets, and the finish reason at a stop string."""
        hide_last = delta.stop_token is not None and not self._params.include_stop_str_in_output
        last = len(delta.token_ids) - 1
        count = len(self._whole.token_ids)
        shown: list[str] = []
        for i, token_id in enumerate(delta.token_ids):
            new.text_offsets.append(self._decoded)
            if hide_last and i == last:
                break
            text = self._detokenizer.add(token_id)
            if not text:
                continue
            self._decoded += len(text)
            if self._stops is None:
                shown.append(text)
                continue
            shown.append(self._release(text, self._stops, count + i + 1 > self._params.min_tokens, new))
            if new.finish_reason == "stop" and isinstance(new.stop_reason, str):
                break
        return "".join(shown)

    def _release(self, text: str, stops: StopStrings, may_stop: bool, new: SequenceOutput) -> str:
        """What of the text held back and ``text`` can be shown; notes a completed stop string in ``new``."""
        self._state, read, match = stops.scan(self._state, text, may_stop)
        window = self._held + text[:read]
        if match is not None:
            new.finish_reason, new.stop_reason = "stop", match
            return window if self._params.include_stop_str_in_output else window[: len(window) - len(match)]
        clear = len(window) - stops.held[self._state]
        self._held = window[clear:]
        return window[:clear]

    def _keep(self, new: SequenceOutput) -> None:
        whole = self._whole
        if new.text:
            self._parts.append(new.text)
        whole.token_ids += new.token_ids
        whole.text_offsets += new.text_offsets
        whole.sources += new.sources
        if new.logprobs is not None:
            if whole.logprobs is None:
                whole.logprobs = []
            whole.logprobs += new.logprobs
        whole.finish_reason, whole.stop_reason, whole.error = new.finish_reason, new.stop_reason, new.error


class RequestText:
    """Makes the texts of all sequences of one request."""

    def __init__(self, request: Request, table: TokenBytes) -> None:
        self.request = request
        stops = StopStrings(request.params.stop) if request.params.stop else None
        self._sequences = [SequenceText(request, index, table, stops) for index in range(request.params.n)]
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        self.num_cached_tokens = 0
        self.queue_time: float | None = None

    @property
    def finished(self) -> bool:
        return all(sequence.finished for sequence in self._sequences)

    @property
    def speculation(self) -> SpeculationReport | None:
        """What speculation did so far, over all sequences; None when no report was asked for."""
        reports = [sequence.report for sequence in self._sequences if sequence.report is not None]
        return total(reports) if reports else None

    def add(self, delta: SequenceDelta) -> SequenceOutput | None:
        """What is new for the client; None for a delta of a sequence that is over already (the engine had not heard
        of a stop string yet). Where the result has a ``finish_reason`` and ``delta`` has none, tell the engine."""
        sequence = self._sequences[delta.index]
        if sequence.finished:
            return None
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs
        if delta.queue_time is not None and self.queue_time is None:
            self.queue_time = delta.queue_time
            self.num_cached_tokens = delta.num_cached_tokens
        return sequence.add(delta)

    def token_ids(self, index: int) -> list[int]:
        """Of one sequence, as far as it got."""
        return self._sequences[index].output.token_ids

    def output(self) -> RequestOutput:
        """The request as far as it got."""
        return RequestOutput(
            request_id=self.request.request_id,
            prompt_ids=self.request.prompt_ids,
            outputs=[sequence.output for sequence in self._sequences],
            finished=self.finished,
            prompt_logprobs=self.prompt_logprobs,
            num_cached_tokens=self.num_cached_tokens,
            queue_time=self.queue_time,
            speculation=self.speculation,
        )
