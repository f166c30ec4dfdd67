"""What was measured for one set at one load: passes without and with drafts, and what follows from them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from paceline.bench.speculation.acceptance import Acceptance, acceptance
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.turns import Pass, Turn
from paceline.bench.statistics import Summary, compare


@dataclass(slots=True)
class Measurement:
    """``off[r]`` and ``on[r]`` are the passes of round ``r``, over the same prompts in the same order."""

    workload: str
    load: int
    planned: Sequence[Planned]
    off: list[Pass] = field(default_factory=list)
    on: list[Pass] = field(default_factory=list)

    # Speeds

    def user_rates(self) -> tuple[list[float], list[float]]:
        """SPEED-Bench's user TPS, without and with drafts, of the turns that have one in both; paired."""
        off, on = [], []
        for without, with_ in zip(self.off, self.on, strict=True):
            for key, turn in without.turns.items():
                other = with_.turns.get(key)
                rate, other_rate = turn.user_rate, other.user_rate if other else None
                if rate is not None and other_rate is not None:
                    off.append(rate)
                    on.append(other_rate)
        return off, on

    @property
    def speedup(self) -> Summary | None:
        """SPEED-Bench's: user TPS with / without drafts, ratio of the medians over turns and rounds; quartiles of the
        ratios of single turns. None when no answer had a second token."""
        off, on = self.user_rates()
        return compare(on, off) if off else None

    @property
    def pooled_speedup(self) -> Summary | None:
        """User TPS with / without drafts where every second of waiting counts the same, quartiles over rounds. The
        median over turns does not say that: an answer of a few steps either waits for another's prompt or does not,
        so that with fewer steps its rate may be lower more often while all answers together come sooner."""
        off, on = ([p.pooled_user_rate for p in passes] for passes in (self.off, self.on))
        rates = [rate for rate in off if rate], [rate for rate in on if rate]
        return compare(rates[1], rates[0]) if all(rates) else None

    @property
    def output_speedup(self) -> Summary:
        """Output tokens a second of whole passes, with / without drafts, prefills included; quartiles over rounds."""
        return compare([p.output_rate for p in self.on], [p.output_rate for p in self.off])

    @property
    def full_speedup(self) -> Summary | None:
        """The same of the time in which all places were taken."""
        off, on = self.full_rates()
        return compare(on, off) if off and on else None

    def full_rates(self) -> tuple[list[float], list[float]]:
        """Output tokens a second while all places were taken, a value a round, without and with drafts."""
        off, on = ([p.full_rate for p in passes] for passes in (self.off, self.on))
        return [rate for rate in off if rate], [rate for rate in on if rate]

    @property
    def full_share(self) -> float:
        """Share of the output tokens that came while all places were taken."""
        passes = [*self.off, *self.on]
        return sum(p.full_tokens for p in passes) / max(1, sum(p.tokens for p in passes))

    # Acceptance and cost

    def acceptance(self) -> Acceptance:
        return acceptance(turn for passed in self.on for turn in passed.turns.values())

    @property
    def drafting_share(self) -> float:
        """Drafting and control, as a share of the steps' time, with drafts on."""
        return _ratio(self.on, "drafting_seconds", "step_seconds") or 0.0

    @property
    def predicted_share(self) -> float | None:
        """Time that the cost table predicted / time that these steps took; None when it predicted none."""
        return _ratio(self.on, "predicted_seconds", "realised_seconds")

    @property
    def believed_speedup(self) -> float | None:
        """What the engine itself believes to have gained: its steps' time without drafts / with them."""
        turns = [turn for passed in self.on for turn in passed.turns.values()]
        spent = sum(turn.time for turn in turns)
        return sum(turn.time_without for turn in turns) / spent if spent else None

    @property
    def decisions(self) -> Counter[str]:
        """Sequences a step by who drafted for them, over the passes with drafts."""
        return sum((passed.decisions for passed in self.on), Counter[str]())

    # Checks

    def differences(self) -> list[str]:
        """Turns whose tokens are not those of the first pass without drafts, one line each."""
        reference, found = self.off[0], []
        passes = [(f"{name}, round {r + 1}", p) for name, ps in (("on", self.on), ("off", self.off))
                  for r, p in enumerate(ps)]  # fmt: skip
        for name, passed in passes:
            for key in sorted(set(reference.turns) | set(passed.turns)):
                one, other = reference.turns.get(key), passed.turns.get(key)
                if one is None or other is None or (one.token_ids, one.text) != (other.token_ids, other.text):
                    prompt = self.planned[key[0]].conversation.key
                    found.append(f"{self.workload}, load {self.load}, {name}: prompt {prompt}, turn {key[1] + 1} "
                                 f"{_where(one, other)}")  # fmt: skip
        return found

    def miscounts(self) -> list[str]:
        """Disagreements of the engine's counters with its answers, one line each."""
        return [
            f"{self.workload}, load {self.load}, {'on' if passed.speculative else 'off'}: {text}"
            for passed in (*self.off, *self.on)
            for text in passed.miscounts()
        ]


@dataclass(frozen=True, slots=True)
class SpecBenchLine:
    """Spec-Bench's figures of one category, batch size 1."""

    category: str
    questions: int
    speedup: float
    mean_accepted_tokens: float


def spec_bench_lines(measurement: Measurement) -> list[SpecBenchLine]:
    """A line for each category, and ``overall`` when there are several. A question's speed is its new tokens / its wall
    time, over all its turns, prefills included; the speed-up is mean speed / mean speed without drafts (neither a mean
    of ratios nor total over total), and its mean over the rounds."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, planned in enumerate(measurement.planned):
        groups[planned.conversation.category or measurement.workload].append(index)
    everything = {"overall": list(range(len(measurement.planned)))} if len(groups) > 1 else {}
    return [_line(name, indices, measurement) for name, indices in (groups | everything).items()]


def _line(category: str, indices: Sequence[int], measurement: Measurement) -> SpecBenchLine:
    chosen = set(indices)
    ratios = [
        _mean_speed(on, chosen) / _mean_speed(off, chosen)
        for off, on in zip(measurement.off, measurement.on, strict=True)
    ]
    turns = (turn for p in measurement.on for key, turn in p.turns.items() if key[0] in chosen)
    return SpecBenchLine(category, len(indices), sum(ratios) / len(ratios), acceptance(turns).micro)


def _mean_speed(passed: Pass, indices: Iterable[int]) -> float:
    tokens, seconds = Counter[int](), defaultdict[int, float](float)
    for (index, _), turn in passed.turns.items():
        tokens[index] += turn.tokens
        seconds[index] += turn.seconds
    speeds = [tokens[index] / seconds[index] for index in indices]
    return sum(speeds) / len(speeds)


def _ratio(passes: Sequence[Pass], above: str, below: str) -> float | None:
    total = sum(passed.counters.get(below, 0.0) for passed in passes)
    return sum(passed.counters.get(above, 0.0) for passed in passes) / total if total else None


def _where(one: Turn | None, other: Turn | None) -> str:
    if one is None or other is None:
        return "was not asked in both"
    if one.token_ids == other.token_ids:  # a server gives texts only
        return f"differs from character {_first_difference(one.text, other.text)} on"
    first = _first_difference(one.token_ids, other.token_ids)
    return f"differs from token {first} on ({one.tokens} and {other.tokens} tokens)"


def _first_difference(one: Sequence[object], other: Sequence[object]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
