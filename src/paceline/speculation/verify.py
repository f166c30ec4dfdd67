"""Which draft tokens stand. Pure: sampled tokens, target distributions and drafts in, accepted paths out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from paceline.sampling.params import SamplingParams
from paceline.speculation.draft import Draft
from paceline.speculation.outcome import Target, Verified
from paceline.speculation.verify_block import verify_block
from paceline.speculation.verify_tree import verify_tree

__all__ = ["Target", "Verified", "match_sampled", "needs_target", "rule_of", "verify"]

#: Decides one sequence whose draft was drawn.
DrawnRule = Callable[[Draft, Target], Verified]


class Rows(Protocol):
    """The token sampled at each of a sequence's logit rows."""

    def __getitem__(self, row: int, /) -> int: ...


def match_sampled(sampled: Rows, draft: Draft) -> Verified:
    """The rule for drafts that are compared with the target's own choice (one-hot drafts; drafts coupled to the target
    through shared noise; greedy sequences): go to the child that equals the token sampled at its parent's row, while
    there is one.

    Every token so emitted was sampled from the target's distribution with the noise of its own position, hence the
    text is the one that decoding without drafts gives.
    """
    if draft.parents is None:
        count = 0
        for proposed in draft.token_ids:
            if sampled[count] != proposed:
                break
            count += 1
        return Verified([sampled[row] for row in range(count + 1)], list(range(count + 1)))
    path = [0]
    for child, (proposed, parent) in enumerate(zip(draft.token_ids, draft.parents, strict=True)):
        # Parents come before children, so one pass visits a path in order; a twin of an accepted token is skipped.
        if parent + 1 == path[-1] and sampled[path[-1]] == proposed:
            path.append(child + 1)
    return Verified([sampled[row] for row in path], path)


def needs_target(draft: Draft, params: SamplingParams) -> bool:
    """Whether, in "exact" mode, the draft's tokens are accepted by the target's distributions instead of being compared
    with sampled tokens: they were drawn, and the sequence is not greedy."""
    return draft.distributions is not None and params.temperature > 0.0


def rule_of(draft: Draft) -> DrawnRule:
    """The rule for a drawn draft: the best one that there is for its shape."""
    if draft.parents is None or all(parent == child - 1 for child, parent in enumerate(draft.parents)):
        return verify_block
    return verify_tree


def verify(
    sampled: Sequence[int],
    row_starts: Sequence[int],
    drafts: Sequence[Draft | None],
    looked_at: Mapping[int, Target | Rows] | None = None,
) -> list[Verified]:
    """Verifies one step's ragged batch of S sequences.

    ``sampled [L]`` holds the token sampled at each logit row; rows of sequence ``s`` are
    ``row_starts[s]:row_starts[s + 1]``: its last committed token, then its draft tokens in the draft's order. A
    sequence without a draft has one row. ``looked_at`` has the rows of sequences for which ``sampled`` says nothing: as
    ``Target`` where the draft was drawn, whose distributions decide by the draft's rule; else as ``Rows``, sampled when
    they are looked at, no further than the walk goes.
    """
    outcomes = []
    for s, draft in enumerate(drafts):
        start, end = row_starts[s], row_starts[s + 1]
        if draft is None or len(draft) == 0:
            assert end - start == 1, f"sequence {s} has {end - start} logit rows and no draft"
            outcomes.append(Verified([sampled[start]], [0]))
            continue
        assert end - start == 1 + len(draft), f"sequence {s} has {end - start} logit rows for {len(draft)} drafts"
        own = looked_at.get(s) if looked_at else None
        if isinstance(own, Target):
            outcomes.append(rule_of(draft)(draft, own))
        else:
            outcomes.append(match_sampled(sampled[start:end] if own is None else own, draft))
    return outcomes
