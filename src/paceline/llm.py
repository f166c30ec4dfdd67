"""Paceline in Python: the engine in the caller's process, texts in, texts out."""

from __future__ import annotations

import secrets
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import msgspec

from paceline.caller import interrupt_afterwards, one_torch_thread
from paceline.engine.detokenizer import TokenBytes
from paceline.engine.factory import build_engine
from paceline.engine.messages import AdapterReply, EngineStats, Request
from paceline.engine.options import EngineOptions
from paceline.engine.output import RequestOutput, RequestText, SequenceOutput
from paceline.errors import AdapterError, InvalidRequestError, PacelineError
from paceline.models.tokenizer import load_tokenizer
from paceline.sampling.bad_words import bad_words_ids
from paceline.sampling.choices import choice_ids
from paceline.sampling.params import SamplingParams

Prompt = str | Sequence[int]
Message = Mapping[str, Any]
Adapters = str | Sequence[str | None] | None
Stream = Generator[SequenceOutput, None, None]


class LLM:
    """A model that generates text.

    ``model``: a folder, a ``.gguf`` file, a Hub id or an alias; empty for the default model. Keyword arguments are the
    fields of ``EngineOptions``; ``adapters`` are LoRA adapters, folders by name. ``info`` says what was loaded and
    every automatic choice with its reason.

    Not thread-safe. Torch's number of threads is as the caller set it whenever the caller's code runs.
    """

    def __init__(self, model: str = "", **options: Any) -> None:
        adapters = {name: str(path) for name, path in (options.pop("adapters", None) or {}).items()}
        wishes = EngineOptions(model=str(model), adapters=adapters, **options)
        wishes.speculation.validate()
        self._engine, self.info = build_engine(wishes)
        self.tokenizer = load_tokenizer(self.info.path)
        self._table = TokenBytes(self.tokenizer.backend, self.tokenizer.special_ids)
        self._jobs: dict[str, _Job] = {}
        self._num_sequences = 0
        self._closed = False

    @property
    def stats(self) -> EngineStats:
        """Gauges as of now and counters since the start."""
        return self._engine.stats()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Adapters that requests may name."""
        return tuple(info.name for info in self._engine.adapters.infos())

    def load_adapter(self, name: str, path: str | Path, *, replace: bool = False) -> None:
        """Loads the LoRA adapter in a folder, in place of one that has the name if ``replace``. Raises
        ``AdapterError`` with the reason; nothing has changed then."""
        self._check_open()
        self._engine.load_adapter(name, str(path), replace=replace)
        while True:
            for reply in self._step().replies:
                if reply.name == name and reply.error is not None:
                    raise AdapterError(reply.error)
                if reply.name == name:
                    return

    def unload_adapter(self, name: str) -> None:
        """Forgets an adapter; streams that use it may go on. Raises ``AdapterError``."""
        self._check_open()
        self._engine.unload_adapter(name)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: Adapters = None,
        progress: bool = False,
    ) -> list[RequestOutput]:
        """Completes one or many prompts (texts or token ids); outputs come in the order of the prompts.

        ``sampling_params``: one for all or one for each. ``adapter``: the name of one for all, or for each prompt a
        name or None, which is the base model. Raises ``InvalidRequestError`` for a prompt or parameter that
        cannot be served; nothing is generated then.
        """
        requests = self._requests(_prompts(prompts), sampling_params, adapter)
        jobs = [_Job(request, self._table, prompt) for request, prompt in requests]
        for _ in _track(self._run(jobs), len(jobs), progress):
            pass
        return [job.output() for job in jobs]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: Adapters = None,
        progress: bool = False,
        **template_options: Any,
    ) -> list[RequestOutput]:
        """Answers one conversation or many (lists of ``{"role": ..., "content": ...}``). ``template_options`` reach the
        model's chat template, for example ``add_generation_prompt`` or ``continue_final_message``."""
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else messages
        prompts = [self.chat_prompt_ids(conversation, **template_options) for conversation in conversations]  # type: ignore[arg-type]
        return self.generate(prompts, sampling_params, adapter=adapter, progress=progress)

    def generate_stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Stream:
        """Completes one prompt; gives what is new as it comes. With ``n`` above 1, ``index`` says whose it is. Closing
        the iterator ends the generation. Several streams may be consumed in turn."""
        ((request, text),) = self._requests([prompt], sampling_params, adapter)
        job = _Job(request, self._table, text)
        return self._stream(job)

    def chat_stream(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        **template_options: Any,
    ) -> Stream:
        """Answers one conversation; gives what is new as it comes."""
        prompt = self.chat_prompt_ids(messages, **template_options)
        return self.generate_stream(prompt, sampling_params, adapter=adapter)

    def chat_prompt_ids(self, messages: Sequence[Message], **template_options: Any) -> list[int]:
        """The conversation as the model reads it."""
        text = self.tokenizer.apply_chat_template(list(messages), **template_options)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def close(self) -> None:
        """Gives the model's memory back. Safe to repeat."""
        if not self._closed:
            self._closed = True
            self._jobs.clear()
            del self._engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # Requests

    def _check_open(self) -> None:
        if self._closed:
            raise PacelineError("this LLM is closed")

    def _requests(
        self,
        prompts: Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        adapter: Adapters,
    ) -> list[tuple[Request, str | None]]:
        """Requests, each with its prompt's text if that was given as text."""
        self._check_open()
        if isinstance(sampling_params, SamplingParams) or sampling_params is None:
            sampling_params = [sampling_params or SamplingParams()] * len(prompts)
        if len(sampling_params) != len(prompts):
            raise InvalidRequestError(
                f"there must be one SamplingParams or as many as prompts, got {len(sampling_params)} "
                f"for {len(prompts)}",
                param="sampling_params",
            )
        adapters = [adapter] * len(prompts) if isinstance(adapter, str) or adapter is None else list(adapter)
        if len(adapters) != len(prompts):
            raise InvalidRequestError(
                f"there must be one adapter or as many as prompts, got {len(adapters)} for {len(prompts)}",
                param="adapter",
            )
        now, prepared = time.time(), [self._prepare(params) for params in sampling_params]
        pairs: list[tuple[Request, str | None]] = []
        for prompt, params, name in zip(prompts, prepared, adapters, strict=True):
            text = prompt if isinstance(prompt, str) else None
            ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
            request = Request(
                request_id=uuid.uuid4().hex, prompt_ids=ids, params=params, arrival_time=now, adapter=name
            )
            self._engine.check(request)
            pairs.append((request, text))
        return pairs

    def _prepare(self, params: SamplingParams) -> SamplingParams:
        changes: dict[str, Any] = {}
        if params.seed is None:
            changes["seed"] = secrets.randbits(63)
        if params.bad_words and not params.bad_words_ids:
            changes["bad_words_ids"] = bad_words_ids(params.bad_words, self.tokenizer)
        if params.choice and not params.choice_ids:
            changes["choice_ids"] = choice_ids(params.choice, self.tokenizer)
        return msgspec.structs.replace(params, **changes) if changes else params

    # Generation

    def _run(self, jobs: Sequence[_Job]) -> Iterator[int]:
        """Runs all jobs, as many at a time as the engine takes; yields how many have ended, after each step."""
        waiting, mine = deque(jobs), set(jobs)
        ended = 0
        try:
            while ended < len(jobs):
                while waiting and self._fits(waiting[0]):
                    self._add(waiting.popleft())
                ended += sum(job in mine for job in self._step().ended)
                yield ended
        finally:
            for job in jobs:
                self._drop(job)

    def _stream(self, job: _Job) -> Stream:
        job.new = deque()
        self._add(job)
        try:
            while True:
                while job.new:
                    yield job.new.popleft()
                if job.text.finished:
                    return
                self._step()
        finally:
            self._drop(job)

    def _fits(self, job: _Job) -> bool:
        limit = self.info.max_running + self.info.max_queue
        return not self._jobs or self._num_sequences + job.count <= limit

    def _add(self, job: _Job) -> None:
        self._engine.add(job.request)
        self._jobs[job.request.request_id] = job
        self._num_sequences += job.count

    def _drop(self, job: _Job) -> None:
        """Takes a job out, whether it is over or not."""
        if self._jobs.pop(job.request.request_id, None) is not None:
            self._num_sequences -= job.count
            self._engine.abort(job.request.request_id)

    def _step(self) -> _Step:
        """One step of the engine; what came of it goes to the jobs."""
        with interrupt_afterwards(), one_torch_thread(self.info.backend == "cpu"):
            report = self._engine.step()
        ended = []
        for delta in report.deltas:
            job = self._jobs.get(delta.request_id)
            if job is None or (part := job.text.add(delta)) is None:
                continue
            if part.error is not None:
                raise PacelineError(f"the engine could not go on with a request: {part.error}")
            if job.new is not None:
                job.new.append(part)
            if job.text.finished:
                self._drop(job)
                ended.append(job)
            elif part.finish_reason is not None and delta.finish_reason is None:  # a stop string
                self._engine.abort(delta.request_id, delta.index)
        return _Step(ended, report.replies)


class _Step(NamedTuple):
    """The jobs that ended, and answers about adapters."""

    ended: list[_Job]
    replies: list[AdapterReply]


class _Job:
    """One request on its way. ``new`` is what its stream has not given yet; None when nobody streams."""

    __slots__ = ("count", "new", "prompt", "request", "text")

    def __init__(self, request: Request, table: TokenBytes, prompt: str | None) -> None:
        self.request = request
        self.prompt = prompt
        self.text = RequestText(request, table)
        self.count = request.params.n
        self.new: deque[SequenceOutput] | None = None

    def output(self) -> RequestOutput:
        output = self.text.output()
        output.prompt = self.prompt
        return output


def _prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many, as a list."""
    if isinstance(prompts, str) or (prompts and not isinstance(prompts[0], str | Sequence)):
        return [cast(Prompt, prompts)]
    return list(cast(Sequence[Prompt], prompts))


def _track(ended: Iterator[int], total: int, shown: bool) -> Iterator[int]:
    """Passes ``ended`` on, with a progress bar on standard error."""
    if not shown:
        yield from ended
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("requests", total=total)
        for count in ended:
            bar.update(task, completed=count)
            yield count
