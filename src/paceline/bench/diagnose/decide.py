"""From observations to what is binding: a pure function, one check for each cause, in the order in which they explain
each other.

A full KV cache makes requests wait, and so does a client's machine that takes the server's cores: both are looked for
before the queue, which is then a symptom. What remains is where a request's time goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from paceline.bench.diagnose.actions import (
    FAR_AWAY,
    LATE_MACHINE,
    SHARED_MACHINE,
    for_decode,
    for_full_machine,
    for_memory,
    for_prefill,
    for_queue,
)
from paceline.bench.diagnose.metrics import Traffic
from paceline.bench.diagnose.observations import Local, Observations, Probes
from paceline.bench.diagnose.wording import cores, gib, milliseconds, percent

Cause = Literal["memory", "client", "queue", "prefill", "decode", "nothing"]

KV_FULL = 0.95  # share of the KV cache in use
KV_TIGHT = 0.85  # the same, where sequences wait beside it
FREE_MEMORY = 0.05  # of the machine's: below it the system begins to swap or to kill
LATE = 0.02  # seconds: a client whose timers are later measures itself
OTHERS = 0.25  # share of the machine's cores that others take from a server ...
ALL_BUSY = 0.9  # ... when so many of all are busy
NETWORK = 0.3  # share of the time to first token that an answer without work takes, too
ROUND_TRIP = 0.005  # seconds: a shorter one is nobody's problem
WAITING = 0.5  # sequences, on average
QUEUE_SHARE = 0.3  # of a request's time
QUEUE_STEPS = 10  # a short prompt that waits longer than so many tokens take is not being computed
BUSY = 0.5  # share of the time in engine steps; where that is not told, so many sequences run on average
PREFILL_GROWTH = 4.0  # times to first token of the long and the short prompt


@dataclass(frozen=True, slots=True)
class Finding:
    """What is binding. ``evidence``: the numbers that say so; ``action``: the one change most likely to help;
    ``beside``: what else was found, in a sentence each; ``unseen``: what could not be observed, and so not be found."""

    cause: Cause
    summary: str
    evidence: tuple[str, ...]
    action: str
    beside: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    summary: str
    evidence: list[str]
    action: str


def diagnose(seen: Observations) -> Finding:
    """The first cause that explains what was seen, or that nothing is binding."""
    checks: tuple[tuple[Cause, Callable[[Observations], _Found | None]], ...] = (
        ("memory", _memory),
        ("client", _client),
        ("queue", _queue),
        ("prefill", _prefill),
        ("decode", _decode),
    )
    unseen = tuple(_unseen(seen))
    causes = [(cause, found) for cause, check in checks if (found := check(seen)) is not None]
    if not causes:
        return Finding("nothing", "Nothing is binding.", tuple(_calm(seen)), _advice(seen), (), unseen)
    (cause, first), *others = causes
    beside = tuple(found.summary for _, found in others)
    return Finding(cause, first.summary, tuple(first.evidence), first.action, beside, unseen)


def _memory(seen: Observations) -> _Found | None:
    traffic, local = seen.traffic, seen.local
    evidence = []
    if traffic is not None:
        tight = (traffic.waiting or 0.0) >= WAITING
        if traffic.preemptions:
            evidence.append(f"{traffic.preemptions:.0f} preemptions: sequences were stopped for want of KV blocks")
        if traffic.kv_usage is not None and traffic.kv_usage >= (KV_TIGHT if tight else KV_FULL):
            evidence.append(f"up to {percent(traffic.kv_usage)} of the KV cache in use")
        if evidence and tight:
            evidence.append(f"{traffic.waiting:.1f} sequences wait on average")
    if evidence:
        return _Found("Memory: the KV cache is full.", evidence, for_memory(seen))
    if local is not None and local.free_bytes < FREE_MEMORY * local.total_bytes:
        evidence = [f"{gib(local.free_bytes)} of the machine's {gib(local.total_bytes)} are free"]
        return _Found("Memory: the machine has hardly any left.", evidence, for_full_machine(seen.kind))
    return None


def _client(seen: Observations) -> _Found | None:
    local, probes = seen.local, seen.probes
    late = f"timers on this machine are {milliseconds(seen.lag)} late (90th percentile)"
    if local is not None and _robbed(local):
        taken = f"programs beside the server keep {cores(local.other_cores)} of {local.cores} cores busy"
        evidence = [f"{taken}, the server {cores(local.server_cores)}", *([late] if seen.lag >= LATE else [])]
        return _Found("Client: programs on the server's machine take its cores.", evidence, SHARED_MACHINE)
    if seen.lag >= LATE:
        return _Found("Client: the machine that this command runs on is late itself.", [late], LATE_MACHINE)
    if probes is not None and _far(probes):
        share = percent(probes.round_trip / probes.short_ttft)
        whole = f"the time to first token of a short prompt ({milliseconds(probes.short_ttft)})"
        evidence = [f"an answer without work takes {milliseconds(probes.round_trip)}, {share} of {whole}"]
        return _Found("Client: the way to the server takes much of the time.", evidence, FAR_AWAY)
    return None


def _robbed(local: Local) -> bool:
    busy = local.server_cores + local.other_cores
    return local.other_cores >= OTHERS * local.cores and busy >= ALL_BUSY * local.cores


def _far(probes: Probes) -> bool:
    return probes.round_trip >= max(ROUND_TRIP, NETWORK * probes.short_ttft)


def _queue(seen: Observations) -> _Found | None:
    traffic, probes = seen.traffic, seen.probes
    evidence = []
    if traffic is not None and traffic.waiting is not None:
        whole = traffic.request_seconds
        share = traffic.queue / whole if whole and traffic.queue is not None else 0.0
        if traffic.waiting >= WAITING:
            evidence.append(f"{traffic.waiting:.1f} sequences wait on average, {traffic.running or 0.0:.1f} run")
        if share >= QUEUE_SHARE:
            assert traffic.queue is not None
            evidence.append(f"a request waits {milliseconds(traffic.queue)}, {percent(share)} of its time")
        if evidence and traffic.kv_usage is not None:
            evidence.append(f"the KV cache has room: at most {percent(traffic.kv_usage)} in use")
    elif probes is not None and probes.tpot and probes.short_ttft - probes.round_trip >= QUEUE_STEPS * probes.tpot:
        evidence.append(
            f"a prompt of {probes.short_tokens} tokens waits {milliseconds(probes.short_ttft)} for its first token, as "
            f"long as {probes.short_ttft / probes.tpot:.0f} later ones take"
        )
    return _Found("Queue: requests wait to be started.", evidence, for_queue(seen)) if evidence else None


def _prefill(seen: Observations) -> _Found | None:
    traffic, probes = seen.traffic, seen.probes
    summary = "Prefill: computing prompts is what takes the time."
    growth = [] if probes is None else [_growth(probes)]
    if traffic is not None and traffic.running is not None:
        prompt, answer = traffic.prefill, traffic.answering
        if not _loaded(traffic) or prompt is None or answer is None or prompt < answer:
            return None
        spent = f"a request's prompt takes {milliseconds(prompt)}, its answer {milliseconds(answer)}"
        return _Found(summary, [spent, *growth, *_tokens(seen)], for_prefill(seen))
    if probes is None or probes.tpot is None:
        return None
    more = probes.long_ttft - probes.short_ttft
    answer = probes.tpot * (probes.answer_tokens - 1)
    if probes.long_ttft < PREFILL_GROWTH * probes.short_ttft or more < answer:
        return None
    text = f"an answer of {probes.answer_tokens} tokens takes {milliseconds(answer)} after its first one"
    return _Found(summary, [*growth, text], for_prefill(seen))


def _decode(seen: Observations) -> _Found | None:
    traffic = seen.traffic
    if traffic is None or not _loaded(traffic):
        return None
    evidence = []
    if traffic.answering is not None and traffic.prefill is not None:
        spent = f"its prompt {milliseconds(traffic.prefill)}"
        evidence.append(f"a request's answer takes {milliseconds(traffic.answering)}, {spent}")
    if traffic.tpot is not None:
        evidence.append(f"{milliseconds(traffic.tpot)} a token, {traffic.running or 0.0:.1f} sequences at a time")
    evidence += _tokens(seen)
    return _Found("Decode: writing answers is what takes the time.", evidence, for_decode(seen))


def _loaded(traffic: Traffic) -> bool:
    """Whether the engine has enough to do for its speed to matter."""
    if traffic.busy is not None:
        return traffic.busy >= BUSY
    return traffic.running is not None and traffic.running >= BUSY


def _tokens(seen: Observations) -> list[str]:
    traffic = seen.traffic
    if traffic is None or traffic.prompt_tokens is None or traffic.generation_tokens is None:
        return []
    rates = (
        f"{traffic.prompt_tokens / traffic.seconds:.0f} prompt tokens and "
        f"{traffic.generation_tokens / traffic.seconds:.0f} new ones a second"
    )
    return [rates if traffic.busy is None else f"{rates}, engine busy {percent(traffic.busy)} of the time"]


def _growth(probes: Probes) -> str:
    rate = probes.prefill_rate
    return (
        f"first token after {milliseconds(probes.short_ttft)} for {probes.short_tokens} prompt tokens, "
        f"{milliseconds(probes.long_ttft)} for {probes.long_tokens}"
        + (f": {rate:.0f} prompt tokens a second" if rate is not None else "")
    )


def _calm(seen: Observations) -> list[str]:
    """What was seen of a server that has no trouble."""
    traffic, probes = seen.traffic, seen.probes
    lines = []
    if traffic is not None:
        load = f"{traffic.requests or 0.0:.0f} requests began in {traffic.seconds:.0f} s"
        if traffic.running is not None:
            load += f", {traffic.running:.1f} sequences run and {traffic.waiting or 0.0:.1f} wait on average"
        lines.append(load)
        lines += _tokens(seen) if traffic.requests else []
    if probes is not None:
        lines.append(_growth(probes))
        if probes.tpot is not None:
            lines.append(f"one stream: {1 / probes.tpot:.0f} tokens a second after the first")
    return lines


def _advice(seen: Observations) -> str:
    if seen.traffic is not None and not seen.traffic.requests:
        return "No change: nobody sent requests. Run this while load flows, with --watch 30."
    return "No change: requests are served as they come."


def _unseen(seen: Observations) -> list[str]:
    lines = []
    if seen.traffic is None:
        lines.append(
            "load, queue and KV cache: the server has no /metrics that can be read (Paceline's or vLLM's names)"
        )
    elif seen.traffic.busy is None:
        lines.append(
            "how much of the time the engine is busy: the server does not tell; running sequences stand for it"
        )
    if seen.probes is None:
        lines.append("time to first token by prompt length and speed of one stream: no requests were sent")
    elif seen.probes.tpot is None:
        lines.append("the speed of one stream: every answer ended after a few tokens")
    if seen.local is None:
        lines.append("the server's processors and memory: it is not a process of this machine that can be looked at")
    return lines
