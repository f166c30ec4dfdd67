"""What is asked of every engine, and what is noted of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from paceline.bench.client import output_rate
from paceline.bench.peers.targets import Kind, Target
from paceline.bench.processes import BusyLoop

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured quantity; ``key`` names it in the JSON report."""

    key: str
    title: str
    unit: str
    higher_is_better: bool = True


START = Metric("start_to_first_token", "start to first token", "s", False)
MEMORY_RSS = Metric("memory_rss", "resident memory, whole tree (RSS)", "MB", False)
MEMORY_PSS = Metric("memory_pss", "resident memory, whole tree (PSS)", "MB", False)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Requests of one shape. ``measure`` answers one round: a value for each of ``metrics``.

    ``requests``: prompts that one round needs. ``rounds``: rounds of it for each round of the run. ``kinds``: which
    targets take part.
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    requests: int
    metrics: tuple[Metric, ...]
    measure: Callable[[Target, Prompts, int], Awaitable[list[float]]]
    rounds: float = 1.0
    kinds: frozenset[Kind] = frozenset({"own", "peer"})

    def count(self, rounds: int) -> int:
        """Rounds of this scenario in a run of ``rounds``."""
        return max(1, round(rounds * self.rounds))


async def single_stream(target: Target, prompts: Prompts, tokens: int) -> list[float]:
    """Tokens a second after the first, and seconds to the first."""
    timeline = await target.generate(prompts[0], tokens)
    return [timeline.decode_rate, timeline.ttft]


async def decode_rate(target: Target, prompts: Prompts, tokens: int) -> list[float]:
    return [(await target.generate(prompts[0], tokens)).decode_rate]


async def all_at_once(target: Target, prompts: Prompts, tokens: int) -> list[float]:
    """Output tokens of all requests a second, sent together."""
    timelines = await asyncio.gather(*(target.generate(prompt, tokens) for prompt in prompts))
    return [output_rate(list(timelines))]


async def beside_busy_loop(target: Target, prompts: Prompts, tokens: int) -> list[float]:
    """Decode rate beside a busy core, and its share of the quiet rate measured just before."""
    quiet = await target.generate(prompts[0], tokens)
    with BusyLoop():
        busy = await target.generate(prompts[1], tokens)
    return [busy.decode_rate, busy.decode_rate / quiet.decode_rate]


async def time_per_token(target: Target, prompts: Prompts, tokens: int) -> list[float]:
    """Milliseconds of a whole request / its tokens."""
    return [(await target.generate(prompts[0], tokens)).total / tokens * 1e3]


DECODE_350 = Metric("decode_350_128", "decode, 1 stream, 350 in / 128 out", "tokens/s")
TTFT_350 = Metric("ttft_350", "time to first token, 350 in", "s", False)
DECODE_120 = Metric("decode_120_25", "decode, 1 stream, 120 in / 25 out", "tokens/s")
DECODE_50 = Metric("decode_50_100", "decode, 1 stream, 50 in / 100 out", "tokens/s")
BATCH_16 = Metric("batch_16", "16 at once, 350 in / 50 out, output", "tokens/s")
BUSY = Metric("decode_beside_busy_core", "decode beside a busy core, 50 in / 100 out", "tokens/s")
BUSY_SHARE = Metric("busy_share", "the same, as a share of the quiet speed", "x")
TOKEN_COST = Metric("streamed_token", "whole request of 50 in / 100 out, a token", "ms", False)

SCENARIOS = (
    Scenario("stream", 350, 128, 1, (DECODE_350, TTFT_350), single_stream),
    Scenario("short", 120, 25, 1, (DECODE_120,), decode_rate),
    Scenario("answer", 50, 100, 1, (DECODE_50,), decode_rate),
    Scenario("batch", 350, 50, 16, (BATCH_16,), all_at_once, rounds=0.6),
    Scenario("busy", 50, 100, 2, (BUSY, BUSY_SHARE), beside_busy_loop),
    Scenario("overhead", 50, 100, 1, (TOKEN_COST,), time_per_token, rounds=2.0, kinds=frozenset({"own", "library"})),
)
