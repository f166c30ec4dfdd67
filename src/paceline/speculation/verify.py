"""Which draft tokens stand. Pure: sampled tokens and drafts in, accepted paths out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.speculation.draft import Draft


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome for one sequence.

    ``token_ids`` are its new tokens: the accepted draft tokens, then the token sampled behind them (-1 where sampling
    failed at that row). ``path`` are the indices, among the sequence's own logit rows, of the rows whose tokens stand,
    in order: row 0 (the last committed token) first, then ``i + 1`` for accepted draft token ``i``. Keys and values of
    these rows stay; ``token_ids[k]`` was sampled from row ``path[k]``.
    """

    token_ids: list[int]
    path: list[int]

    @property
    def num_accepted(self) -> int:
        """Draft tokens accepted."""
        return len(self.path) - 1


#: Decides one sequence: the tokens sampled at its rows (``1 + len(draft)`` of them) and its draft.
Rule = Callable[[Sequence[int], Draft], Verified]


def match_sampled(sampled: Sequence[int], draft: Draft) -> Verified:
    """The rule for drafts that are compared with the target's own choice (one-hot drafts; drafts coupled to the target
    through shared noise): go to the child that equals the token sampled at its parent's row, while there is one.

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


def verify(
    sampled: Sequence[int],
    row_starts: Sequence[int],
    drafts: Sequence[Draft | None],
    rule: Rule = match_sampled,
) -> list[Verified]:
    """Verifies one step's ragged batch of S sequences.

    ``sampled [L]`` holds the token sampled at each logit row; rows of sequence ``s`` are
    ``row_starts[s]:row_starts[s + 1]``: its last committed token, then its draft tokens in the draft's order. A
    sequence without a draft has one row. ``rule`` decides one sequence; a rule for probabilistic drafts (rejection or
    block verification) is an object made from the step's target distributions that is called the same way.
    """
    outcomes = []
    for s, draft in enumerate(drafts):
        start, end = row_starts[s], row_starts[s + 1]
        if draft is None or len(draft) == 0:
            assert end - start == 1, f"sequence {s} has {end - start} logit rows and no draft"
            outcomes.append(Verified([sampled[start]], [0]))
        else:
            assert end - start == 1 + len(draft), f"sequence {s} has {end - start} logit rows for {len(draft)} drafts"
            outcomes.append(rule(sampled[start:end], draft))
    return outcomes
