"""Published speeds of speculative decoding, to stand beside ours. Other models and machines: for orientation only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Spec-Bench's categories, in its order.
CATEGORIES = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag")


@dataclass(frozen=True, slots=True)
class Published:
    """One method on Spec-Bench: speed-up by category and over all, and mean accepted tokens over all."""

    method: str
    speedups: Mapping[str, float]
    speedup: float
    mean_accepted_tokens: float


def _row(method: str, speedups: str, mean_accepted_tokens: float, speedup: float) -> Published:
    by_category = dict(zip(CATEGORIES, map(float, speedups.split()), strict=True))
    return Published(method, by_category, speedup, mean_accepted_tokens)


#: github.com/hemingkx/Spec-Bench, Leaderboard.md at commit fd2c1cd: one A100 (80 GB), Vicuna v1.3 of 7B (EAGLE-3: 13B),
#: FP16, greedy, batch size 1, 1024 new tokens.
SPEC_BENCH = (
    _row("prompt lookup", "1.60 1.06 2.66 1.19 1.62 1.86", 1.75, 1.66),
    _row("draft model", "1.66 1.13 1.71 1.50 1.47 1.66", 2.28, 1.52),
    _row("Medusa", "1.97 1.65 1.57 1.65 1.94 1.49", 2.31, 1.71),
    _row("EAGLE-2", "2.84 1.88 2.34 2.15 2.79 2.13", 4.34, 2.36),
    _row("suffix automaton + EAGLE-2", "3.30 2.01 3.19 2.36 2.96 2.52", 4.58, 2.73),
    _row("EAGLE-3 (13B)", "3.48 2.36 3.14 2.94 3.42 2.78", 5.71, 3.02),
)


@dataclass(frozen=True, slots=True)
class PublishedLengths:
    """Acceptance lengths on SPEED-Bench's qualitative split; ``by_category`` has those that were published."""

    where: str
    overall: float
    by_category: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PublishedSpeedups:
    """Speed-ups in user TPS, greedy and at temperature 1."""

    method: str
    greedy: float
    sampled: float


#: SPEED-Bench, arXiv 2604.09557.
SPEED_BENCH_LENGTHS = PublishedLengths(
    "Llama 3.3 70B, EAGLE-3, draft length 3, concurrency 32, 8 x H100",
    2.45,
    {"coding": 3.00, "math": 2.47, "multilingual": 1.73, "roleplay": 2.04},
)
#: The same paper: B200, batch 32, draft length 3.
SPEED_BENCH_SPEEDUPS = (
    PublishedSpeedups("n-gram, Llama 3.3 70B", 0.88, 0.85),
    PublishedSpeedups("draft model, Llama 3.3 70B", 1.60, 1.15),
    PublishedSpeedups("EAGLE-3, Llama 3.3 70B", 1.90, 1.75),
    PublishedSpeedups("MTP, Qwen3-Next", 1.20, 1.18),
)
