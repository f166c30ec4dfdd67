"""All speculators that draft now, as one drafter: the base model's, and one for each adapter that came with its own.

Each is a ``TurboDrafter`` with weights, keys and values of its own: they may differ in draft length, vocabulary and in
the target's layers that they read. In a step, sequences of one speculator are one pass; passes come one after the other
(docs/decisions/0011 has what that costs). A speculator that no sequence of the step has does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path

from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress, SequenceView
from paceline.speculation.drafters.turbo import TurboDrafter


class TurboSpeculators:
    """Implements ``Drafter``, ``Whole``, and ``Speculators`` of the adapters.

    ``open``: from a speculator's folder to its drafter, raising ``ModelLoadError``; it may be called on another thread.
    ``base``: drafts for the base model, and for adapters that have no speculator; None: nobody does. ``folder``: that
    of ``base``.
    """

    name = TurboDrafter.name
    cheap = TurboDrafter.cheap

    def __init__(
        self, open: Callable[[Path], TurboDrafter], base: TurboDrafter | None = None, folder: Path | None = None
    ) -> None:
        self.open = open
        self.base = base
        self.folder = folder
        self._own: dict[str, TurboDrafter] = {}  # by the adapter's key
        self._layers: tuple[int, ...] = ()
        self._gather_layers()

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that any of them reads."""
        return self._layers

    def attach(self, key: str, speculator: TurboDrafter) -> None:
        """Sequences of the adapter ``key`` draft with ``speculator`` from now on."""
        assert key not in self._own
        self._own[key] = speculator
        self._gather_layers()

    def detach(self, key: str) -> None:
        """The adapter is not in use. What was known of its sequences is forgotten: they may come back."""
        gone = self._own.pop(key, None)
        if gone is not None:
            gone.clear()
            self._gather_layers()

    def replace_base(self, speculator: TurboDrafter | None) -> None:
        """Sequences that draft with ``base`` draft with ``speculator`` from now on, those that run as soon as their
        states have come to it. What the old one knew of them is forgotten with it."""
        self.base = speculator
        self._gather_layers()

    def longest(self, sequence: SequenceView) -> int:
        drafter = self._of(sequence)
        return 0 if drafter is None else drafter.longest

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        """One pass for each speculator that these sequences have."""
        groups: dict[TurboDrafter, list[int]] = {}
        for i, sequence in enumerate(sequences):
            drafter = self._of(sequence)
            if drafter is not None:
                groups.setdefault(drafter, []).append(i)
        drafts: list[Draft | None] = [None] * len(sequences)
        for drafter, places in groups.items():
            proposed = drafter.propose([sequences[i] for i in places], [lengths[i] for i in places])
            for i, draft in zip(places, proposed, strict=True):
                drafts[i] = draft
        return drafts

    def observe(self, progress: Seq[Progress]) -> None:
        groups: dict[TurboDrafter, list[Progress]] = {}
        for part in progress:
            drafter = self._of(part.sequence)
            if drafter is not None:
                groups.setdefault(drafter, []).append(part)
        for drafter, parts in groups.items():
            drafter.observe(parts)

    def forget(self, sequence: SequenceView) -> None:
        drafter = self._of(sequence)
        if drafter is not None:
            drafter.forget(sequence)

    def reset(self) -> None:
        """Nothing outlives its sequence."""

    def check_integrity(self) -> None:
        """Asserts that the caches of all of them are in order."""
        for drafter in [*self._own.values(), *([] if self.base is None else [self.base])]:
            drafter.check_integrity()

    def _of(self, sequence: SequenceView) -> TurboDrafter | None:
        adapter = sequence.adapter
        return self.base if adapter is None else self._own.get(adapter, self.base)

    def _gather_layers(self) -> None:
        drafters = [*self._own.values(), *([] if self.base is None else [self.base])]
        self._layers = tuple(sorted({layer for drafter in drafters for layer in drafter.layers}))
