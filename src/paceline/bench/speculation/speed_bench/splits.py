"""SPEED-Bench's splits as plans: what is asked of whom, cut to the context that there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from paceline.bench.prompts import DataError
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.speed_bench.embeddings import Embedder
from paceline.bench.speculation.speed_bench.qualitative import PROMPTS, build_qualitative
from paceline.bench.speculation.speed_bench.throughput import PROMPTS as THROUGHPUT_PROMPTS
from paceline.bench.speculation.speed_bench.throughput import Cutter, build_throughput
from paceline.bench.speculation.workloads import Conversation

QUALITATIVE, THROUGHPUT = "qualitative", "throughput"
ROOM = 128  # tokens of the context that a prompt must leave for its answer, or the cap if that is less

Say = Callable[[str], None]


class Planner(Protocol):
    """Whoever will answer, and so knows how many tokens a prompt has."""

    def tokens(self, text: str) -> int: ...

    def plan(self, conversations: Sequence[Conversation], room: int) -> tuple[list[Planned], int]: ...


@dataclass(slots=True)
class Splits:
    """Plans by name. ``notes``: what was left out, and why; ``how``: how the qualitative prompts were chosen."""

    plans: dict[str, list[Planned]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    how: str = ""


@dataclass(frozen=True, slots=True)
class SplitWishes:
    """``names``: of splits. ``prompts``: of each category (qualitative) or entropy (throughput), None: 80 and 32.
    ``lengths``: of the throughput split, in tokens."""

    names: Sequence[str]
    lengths: Sequence[int]
    prompts: int | None
    seed: int
    max_tokens: int

    @property
    def room(self) -> int:
        return min(ROOM, self.max_tokens)


def make_splits(
    data: Path,
    wishes: SplitWishes,
    planner: Planner,
    context_length: int | None,
    open_embedder: Callable[[], Embedder],
    say: Say,
) -> Splits:
    """Everything that is asked, made before the clock runs. Raises ``DataError`` when nothing is left to ask."""
    splits = Splits()
    if QUALITATIVE in wishes.names:
        prompts = wishes.prompts or PROMPTS
        found = build_qualitative(data, open_embedder, wishes.seed, prompts, say=say)
        splits.how = found.how
        splits.notes += found.notes
        _add(splits, QUALITATIVE, found.first(prompts), planner, wishes, context_length)
    for length in wishes.lengths if THROUGHPUT in wishes.names else ():
        if context_length is not None and length + wishes.room > context_length:
            splits.notes.append(
                f"left out throughput {_short(length)}: with {wishes.room} tokens for the answer it exceeds the "
                f"context of {context_length}"
            )
            continue
        say(f"making prompts of {length} tokens")
        made = build_throughput(data, length, Cutter(planner.tokens), wishes.prompts or THROUGHPUT_PROMPTS, wishes.seed)
        _add(splits, f"throughput {_short(length)}", made, planner, wishes, context_length)
    if not any(splits.plans.values()):
        raise DataError("; ".join(splits.notes) or "there is nothing to measure")
    return splits


def _add(
    splits: Splits,
    name: str,
    conversations: Sequence[Conversation],
    planner: Planner,
    wishes: SplitWishes,
    context_length: int | None,
) -> None:
    plan, too_long = planner.plan(conversations, wishes.room)
    if too_long:
        splits.notes.append(
            f"{name}: left out {too_long} prompts that, with {wishes.room} tokens for the answer, exceed the context "
            f"of {context_length}"
        )
    if plan:
        splits.plans[name] = plan


def _short(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)
