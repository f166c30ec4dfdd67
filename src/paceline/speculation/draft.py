"""Proposed tokens: the type that drafters produce and the controller, scheduler, runner and verifier consume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import lt

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]

#: A distribution over tokens: ascending ids and their probabilities (sum 1); ids left out have none.
Distribution = tuple[npt.NDArray[np.int64], Weights]


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft tokens for one sequence, in an order in which parents come before children.

    ``parents[i]`` is the index of token ``i``'s parent in this draft, -1 for a child of the sequence's last token;
    None means a chain (``parents[i] == i - 1``). ``confidence[i]`` is the drafter's own guess, in [0, 1], at the
    probability that token ``i`` is accepted once its ancestors are; the controller calibrates it. ``distributions[i]``
    is what token ``i`` was drawn from; None when the draft is one-hot (chosen, not drawn). Siblings of a drawn tree are
    drawn without replacement from the same distribution, in their order in the draft. Where tokens were drawn,
    ``confidence[i]`` may depend on distributions and on tokens before ``i`` only, never on the token drawn at ``i`` or
    later: trimming by it would bias the output. ``drafters[i]`` proposed token ``i`` where drafts of several were
    merged; None: all are ``drafter``'s.
    """

    token_ids: tuple[int, ...]
    drafter: str
    parents: tuple[int, ...] | None = None
    confidence: tuple[float, ...] | None = None
    distributions: tuple[Distribution, ...] | None = None
    drafters: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        parents = self.parents
        assert not parents or (min(parents) >= -1 and all(map(lt, parents, range(len(parents)))))

    def __len__(self) -> int:
        return len(self.token_ids)

    def trim(self, count: int) -> Draft:
        """The first ``count`` tokens (still closed under parents); a chain if these do not branch."""
        if count >= len(self):
            return self

        def cut(values: tuple | None) -> tuple | None:
            return None if values is None else values[:count]

        parents = cut(self.parents)
        if parents == tuple(range(-1, count - 1)):
            parents = None
        return replace(
            self,
            token_ids=self.token_ids[:count],
            parents=parents,
            confidence=cut(self.confidence),
            distributions=cut(self.distributions),
            drafters=cut(self.drafters),
        )

    def proposer(self, place: int) -> str:
        """Who proposed the token at ``place``."""
        return self.drafter if self.drafters is None else self.drafters[place]


def depths_of(parents: Sequence[int]) -> list[int]:
    """Depth of each token of a tree below the sequence's last token: 0 for its children."""
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths
