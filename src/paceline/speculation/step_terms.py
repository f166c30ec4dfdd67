"""The terms on which a step takes drafts: worked out once, before the first drafter is asked."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from paceline.speculation.admit import Admission, Beside, admit
from paceline.speculation.costs import StepCosts
from paceline.speculation.decision import StepShape


class StepTerms:
    """``contexts``: tokens before the row of each sequence that may draft. ``threshold``: survival that paid for a row
    in the last step."""

    def __init__(self, costs: StepCosts, shape: StepShape, contexts: Seq[int], threshold: float) -> None:
        self._costs = costs
        self._shape = shape
        self._threshold = threshold
        alone = costs.attention_of_all(shape.contexts)
        # A row of a prompt sees the prompt's rows before it, too; on average half of them.
        prompts = sum(costs.attention(before + rows / 2, rows) for before, rows in shape.prompts)
        step = alone + prompts - costs.logits * shape.other_rows
        self._beside = Beside(alone, step, [costs.row_attention(context) for context in contexts])

    def worth(self, survival: Seq[float]) -> float:
        """Of a draft, in tokens, at the last step's price of a row."""
        threshold = self._threshold
        return sum(s - threshold for s in survival if s > threshold)

    def worthwhile(self, survival: Seq[float]) -> Seq[float]:
        """The leading tokens that would be worth half the last step's price of a row, or more."""
        least = self._threshold / 2
        return [s for s in survival if s >= least]

    def admit(self, survivals: Seq[Seq[float]], *, causal: bool = False) -> Admission:
        """As ``admit`` of drafts with these survivals, one for each sequence that may draft."""
        shape = self._shape
        return admit(
            survivals, shape.sampling, shape.other_rows, self._costs, shape.draft_rows,
            beside=self._beside, causal=causal,
        )  # fmt: skip
