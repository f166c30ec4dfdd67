"""Who asks what: scenarios and traces as lists of requests for one point. The same for every target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import mean

from paceline.bench.load.arrivals import arrivals
from paceline.bench.load.lengths import Messages, TokenEstimate
from paceline.bench.load.loads import Load
from paceline.bench.load.scenarios import SAMPLES, Pool, Texts, user
from paceline.bench.load.settings import Settings
from paceline.bench.load.trace_texts import Lengths, TraceTexts, clip
from paceline.bench.load.traces import Trace


@dataclass(frozen=True, slots=True)
class Shot:
    """One request of a point: when it is sent (seconds, open loops), what, and to which adapter ("": the base
    model)."""

    at: float
    messages: Messages
    max_tokens: int
    adapter: str = ""
    ignore_eos: bool = False


class Workload(ABC):
    """``name`` names it in tables, ``loads`` are its operating points in ascending order."""

    def __init__(self, name: str, title: str, loads: Sequence[Load]) -> None:
        self.name = name
        self.title = title
        self.loads = list(loads)

    @abstractmethod
    def samples(self) -> Sequence[Messages]:
        """Texts of the kind that it sends, for a server to count."""

    @abstractmethod
    def fit(self, estimate: TokenEstimate, context: int | None) -> None:
        """Makes the prompts near their lengths, for servers with ``context`` tokens (None: unknown). Call it before
        ``shots``. Raises ``DataError``."""

    @abstractmethod
    def shots(self, load: Load, repeat: int) -> list[Shot]:
        """The requests of a point."""

    @abstractmethod
    def notes(self) -> list[str]:
        """What a reader of its figures must know, as sentences."""


class ScenarioWorkload(Workload):
    """Prompts of one scenario; ``adapters`` take turns ("" is the base model)."""

    def __init__(
        self,
        name: str,
        title: str,
        texts: Texts,
        prompt_tokens: int | None,
        max_tokens: int,
        adapters: Sequence[str],
        loads: Sequence[Load],
        settings: Settings,
    ) -> None:
        super().__init__(name, title, loads)
        self.texts = texts
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.adapters = list(adapters)
        self.settings = settings
        self.pool = Pool([])
        self.estimate = TokenEstimate()

    def samples(self) -> Sequence[Messages]:
        return self.texts.samples()

    def fit(self, estimate: TokenEstimate, context: int | None) -> None:
        self.estimate = estimate
        room = None if context is None else context - self.max_tokens
        self.pool = self.texts.pool(estimate, self.prompt_tokens, room)

    def shots(self, load: Load, repeat: int) -> list[Shot]:
        settings = self.settings
        if load.kind == "rate":
            seed = f"{settings.seed} {self.name} {load} {repeat}"
            times = arrivals(load.value, settings.process, seed, duration=settings.duration, requests=settings.requests)
        else:
            times = [0.0] * (settings.requests or load.closed_requests())
        prompts = self.pool.take(len(times))
        return [
            Shot(at, messages, self.max_tokens, adapter, settings.ignore_eos)
            for at, messages, adapter in zip(times, prompts, cycle(self.adapters), strict=False)
        ]

    def notes(self) -> list[str]:
        notes = [f"{self.name}: {self.texts.origin}; {self.estimate}"]
        if self.texts.left_out:
            notes.append(f"{self.name}: {self.texts.left_out} texts were left out, since they do not fit the context")
        if self.pool.repeated:
            notes.append(
                f"{self.name}: {self.pool.repeated} prompts were sent a second time, since there are only "
                f"{len(self.pool.prompts)}: prefix caches, and drafters that remember answers, gain by that"
            )
        return notes


class TraceWorkload(Workload):
    """A trace's arrivals, those of the first ``duration`` seconds of a replay (None: all), and its lengths; answers go
    on to their full length."""

    def __init__(
        self, trace: Trace, loads: Sequence[Load], duration: float | None, seed: int, corpus: Sequence[str]
    ) -> None:
        super().__init__(trace.path.name, f"arrivals and lengths of a trace ({trace.kind})", loads)
        self.trace = trace
        self.duration = duration
        self.seed = seed
        self.corpus = corpus
        self.estimate = TokenEstimate()
        self.context: int | None = None
        self.asked: list[Lengths] = []

    def samples(self) -> Sequence[Messages]:
        texts = TraceTexts(TokenEstimate(), f"{self.seed} sample", self.corpus)
        return [user(texts.prompt(number, 50 * (number + 1))) for number in range(SAMPLES)]

    def fit(self, estimate: TokenEstimate, context: int | None) -> None:
        self.estimate, self.context = estimate, context

    def shots(self, load: Load, repeat: int) -> list[Shot]:
        texts = TraceTexts(self.estimate, f"{self.seed} {load} {repeat}", self.corpus)
        shots = []
        for number, request in enumerate(self.trace.faster(load.value)):
            if self.duration is not None and request.at >= self.duration:
                break
            lengths = clip(request, self.context)
            self.asked.append(lengths)
            messages = user(texts.prompt(number, lengths.input_tokens, request.blocks))
            shots.append(Shot(request.at, messages, lengths.output_tokens, "", ignore_eos=True))
        return shots

    def notes(self) -> list[str]:
        source = f"{len(self.corpus)} texts of the data folder" if self.corpus else "generated English"
        notes = [f"{self.name}: prompts from {source}; {self.estimate}; answers go on to the trace's length"]
        if self.asked:
            means = (mean(one.input_tokens for one in self.asked), mean(one.output_tokens for one in self.asked))
            notes.append(f"{self.name}: {means[0]:.0f} tokens in and {means[1]:.0f} out were asked for on average")
        clipped = sum(lengths.clipped for lengths in self.asked)
        if self.context is None:
            notes.append(f"{self.name}: the server does not tell its context, so nothing is clipped to it")
        elif clipped:
            notes.append(
                f"{self.name}: {clipped} of {len(self.asked)} requests were clipped to a context of {self.context} "
                "tokens"
            )
        return notes
