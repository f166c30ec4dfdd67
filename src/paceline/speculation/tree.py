"""Token trees as data: an order in which any prefix is worth verifying."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

from paceline.speculation.draft import Draft


def by_survival(draft: Draft, survival: Seq[float]) -> tuple[Draft, list[float]]:
    """A tree's tokens in descending survival (which never rises along a path, so parents stay before children), with
    their survivals in the same order. Siblings that were drawn keep their order: each was drawn from what the ones
    before it left."""
    assert draft.parents is not None
    if draft.distributions is not None:
        survival = _never_rising_among_siblings(draft.parents, survival)
    order = sorted(range(len(draft)), key=lambda i: -survival[i])
    place = {old: new for new, old in enumerate(order)}
    place[-1] = -1

    def sort(values: tuple | None) -> tuple | None:
        return None if values is None else tuple(values[i] for i in order)

    parents = tuple(place[draft.parents[i]] for i in order)
    return replace(
        draft,
        token_ids=tuple(draft.token_ids[i] for i in order),
        parents=parents,
        confidence=sort(draft.confidence),
        distributions=sort(draft.distributions),
    ), [survival[i] for i in order]


def _never_rising_among_siblings(parents: Seq[int], survival: Seq[float]) -> list[float]:
    lowest: dict[int, float] = {}
    capped: list[float] = []
    for parent, value in zip(parents, survival, strict=True):
        value = min(value, lowest.get(parent, 1.0), capped[parent] if parent >= 0 else 1.0)
        lowest[parent] = value
        capped.append(value)
    return capped
