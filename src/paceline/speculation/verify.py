"""Which draft tokens stand. Pure: sampled tokens, target distributions and drafts in, accepted paths out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from paceline.sampling.params import SamplingParams
from paceline.speculation.draft import Draft
from paceline.speculation.outcome import Target, Verified
from paceline.speculation.verify_block import verify_block
from paceline.speculation.verify_tree import verify_tree

__all__ = ["Target", "Verified", "match_sampled", "needs_target", "rule_of", "verify"]

#: Decides one sequence whose draft was drawn.
DrawnRule = Callable[[Draft, Target], Verified]


def match_sampled(sampled: Sequence[int], draft: Draft) -> Verified:
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
        return Verified(list(sampled[: count + 1]), list(range(count + 1)))
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
    targets: Mapping[int, Target] | None = None,
) -> list[Verified]:
    """Verifies one step's ragged batch of S sequences.

    ``sampled [L]`` holds the token sampled at each logit row; rows of sequence ``s`` are
    ``row_starts[s]:row_starts[s + 1]``: its last committed token, then its draft tokens in the draft's order. A
    sequence without a draft has one row. Sequences named in ``targets`` have a drawn draft: ``rule_of`` it decides by
    the target's distributions, and what ``sampled`` says of their rows does not matter. The others match.
    """
    outcomes = []
    for s, draft in enumerate(drafts):
        start, end = row_starts[s], row_starts[s + 1]
        if draft is None or len(draft) == 0:
            assert end - start == 1, f"sequence {s} has {end - start} logit rows and no draft"
            outcomes.append(Verified([sampled[start]], [0]))
            continue
        assert end - start == 1 + len(draft), f"sequence {s} has {end - start} logit rows for {len(draft)} drafts"
        target = targets.get(s) if targets else None
        if target is None:
            outcomes.append(match_sampled(sampled[start:end], draft))
        else:
            outcomes.append(rule_of(draft)(draft, target))
    return outcomes
