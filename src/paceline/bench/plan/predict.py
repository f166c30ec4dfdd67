"""Step times, first tokens and throughput of a model on a machine, from the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.bench.plan.acceptance import chance_of, expected_tokens
from paceline.bench.plan.machines import Machine
from paceline.bench.plan.sizes import Format, work
from paceline.bench.roofline.model_work import HEAD, ModelWork, total
from paceline.bench.roofline.work import Work
from paceline.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Traffic:
    """What every request has: tokens in and out."""

    tokens_in: int
    tokens_out: int

    @property
    def length(self) -> int:
        return self.tokens_in + self.tokens_out

    @property
    def mean_context(self) -> int:
        """Tokens behind which a token is decoded, on the mean."""
        return self.tokens_in + self.tokens_out // 2


@dataclass(frozen=True, slots=True)
class Speculation:
    """Drafts of at most ``draft`` tokens, each of which stands with ``chance`` behind those before it. ``layers``: of
    the drafter, which reads them and the head once for a block of drafts; 0: drafts cost nothing (suffix, n-gram)."""

    draft: int
    chance: float
    layers: int = 1

    @classmethod
    def guess(cls, acceptance_length: float, draft: int, layers: int = 1) -> Speculation:
        """From the mean tokens of a step. Raises ``PacelineError`` for an impossible one."""
        return cls(draft, chance_of(acceptance_length, draft), layers)


@dataclass(frozen=True, slots=True)
class Point:
    """A machine that serves ``sequences`` at a time. Times in seconds. ``ttft``: from sending a request to its first
    token; ``tpot``: for each token after it; ``requests``: ended in a second. ``draft``: tokens drafted in a step for
    each sequence, as many as pay there; ``tokens_per_step``: what a step gives each sequence."""

    sequences: int
    step: float
    draft: int
    tokens_per_step: float
    ttft: float
    tpot: float
    requests: float
    tokens: float  # output tokens a second, of all sequences

    @property
    def user_tokens(self) -> float:
        """Output tokens a second of one sequence, behind its first."""
        return 1.0 / self.tpot


class Predictor:
    """Times of one model in one format on one machine."""

    def __init__(self, spec: ModelSpec, form: Format, machine: Machine) -> None:
        self.machine = machine
        self.form = form
        self.width = spec.hidden_size
        self.model: ModelWork = work(spec, form, machine.cache_item, machine.attention_arithmetic)
        self._prefills: dict[int, float] = {}

    def step(self, sequences: int, rows: int, context: int) -> float:
        """Seconds of a step in which ``sequences`` have ``rows`` rows each behind ``context`` tokens."""
        products, attention = self.model.step(sequences, rows, context)
        return self._seconds(products, attention, self.model.num_layers, sequences * rows)

    def _seconds(self, products: Work, attention: Work, layers: int, rows: int) -> float:
        return self.machine.seconds(products, attention, self.form.bits, layers, rows * self.width * layers)

    def prefill(self, tokens: int) -> float:
        """Seconds of a prompt, alone."""
        if tokens not in self._prefills:
            self._prefills[tokens] = self._prefill(tokens)
        return self._prefills[tokens]

    def _prefill(self, tokens: int) -> float:
        chunk = self.machine.chunk
        sizes = [min(chunk, tokens - start) for start in range(0, tokens, chunk)]
        return sum(
            self._seconds(products, attention, self.model.num_layers, rows)
            for rows, (products, attention) in zip(sizes, self.model.prefill(tokens, chunk), strict=True)
        )

    def drafting(self, sequences: int, draft: int, layers: int) -> float:
        """Seconds of a drafter's pass that drafts ``draft`` tokens for each sequence: so many of the model's layers and
        its head, attention left out."""
        if draft == 0 or layers == 0:
            return 0.0
        rows, share = sequences * draft, layers / self.model.num_layers
        body = total(weight.work(rows) for weight in self.model.weights if weight.part != HEAD) * share
        products = body + self.model.weights[-1].work(rows)
        return self._seconds(products, Work(), layers, rows)

    def decode(self, sequences: int, context: int, speculation: Speculation | None) -> tuple[int, float, float]:
        """Draft length, seconds of a step and tokens that it gives each sequence: the draft length, 0 included, that
        gives the most tokens a second."""
        best = (0, self.step(sequences, 1, context), 1.0)
        for draft in range(1, speculation.draft + 1 if speculation else 0):
            assert speculation is not None
            seconds = self.step(sequences, draft + 1, context) + self.drafting(sequences, draft, speculation.layers)
            tokens = expected_tokens(speculation.chance, draft)
            if tokens / seconds > best[2] / best[1]:
                best = (draft, seconds, tokens)
        return best

    def point(self, sequences: int, traffic: Traffic, speculation: Speculation | None = None) -> Point:
        """``sequences`` requests at a time, each followed by another one when it ends. While one prompt is computed the
        others wait: a request takes its own decode steps and, on the mean, one prompt of each of its neighbours. Its
        first token waits for prompts that are there already (a queue with random arrivals and a fixed service time,
        M/D/1) and, beside others, for half a step."""
        prompt = self.prefill(traffic.tokens_in)
        draft, step, tokens = self.decode(sequences, traffic.mean_context, speculation)
        steps = (traffic.tokens_out - 1) / tokens
        whole = sequences * prompt + steps * step
        load = (sequences - 1) * prompt / whole
        waiting = load * prompt / (2 * (1 - load)) + (step / 2 if sequences > 1 else 0.0)
        ttft = min(prompt + waiting, whole)
        tpot = (whole - ttft) / max(1, traffic.tokens_out - 1)
        requests = sequences / whole
        return Point(
            sequences, step, draft, tokens, ttft, tpot or step / tokens, requests, requests * traffic.tokens_out
        )

    def curve(self, most: int, traffic: Traffic, speculation: Speculation | None = None) -> list[Point]:
        """Points at 1, 2, 4, ... sequences and at ``most``."""
        return [self.point(count, traffic, speculation) for count in counts(most)]


def counts(most: int) -> list[int]:
    """1, 2, 4, ... below ``most``, and ``most``."""
    below = [1 << power for power in range(max(1, most).bit_length()) if 1 << power < most]
    return [*below, max(1, most)]


def at_rate(points: Sequence[Point], rate: float) -> Point | None:
    """The first point that ends at least ``rate`` requests a second; None if none does."""
    return next((point for point in points if point.requests >= rate), None)
