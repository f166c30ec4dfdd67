"""Which adapter is in which slot of the backend."""

from __future__ import annotations

from collections.abc import Collection

from paceline.adapters.adapter import Adapter, Speculators
from paceline.backends.base import Backend


class AdapterSlots:
    """Gives slots to adapters. One that no running sequence holds may be given to another adapter; of these the least
    recently used goes first. An adapter's speculator drafts as long as the adapter is in a slot."""

    def __init__(self, backend: Backend, count: int, speculators: Speculators | None = None) -> None:
        self._backend = backend
        self._speculators = speculators
        self.occupants: list[Adapter | None] = [None] * count

    def assign(self, adapter: Adapter, reserved: Collection[int] = (), evict: bool = True) -> Adapter | bool:
        """Gives ``adapter`` a slot that is free or, with ``evict``, unused; not one of ``reserved``. The adapter that
        had to go, True when none had to, False when there is no such slot."""
        assert adapter.slot is None
        best: int | None = None
        for slot, other in enumerate(self.occupants):
            if slot in reserved:
                continue
            if other is None:
                best = slot
                break
            if evict and other.resident and not other.num_running:
                champion = None if best is None else self.occupants[best]
                if champion is None or other.last_used < champion.last_used:
                    best = slot
        if best is None:
            return False
        gone = self.occupants[best]
        if gone is not None:
            self._detach(gone)
            gone.slot, gone.resident = None, False
        self.occupants[best], adapter.slot = adapter, best
        return gone if gone is not None else True

    def fill(self, adapter: Adapter) -> None:
        """Puts the weights into the adapter's slot, and has its speculator draft. Raises what the backend raises."""
        assert adapter.slot is not None and adapter.weights is not None
        self._backend.load_adapter(adapter.slot, adapter.weights.parts)
        if adapter.weights.speculator is not None:
            assert self._speculators is not None, "nobody drafts with it, so nobody should have read it"
            self._speculators.attach(adapter.key, adapter.weights.speculator)
        adapter.resident = True

    def clear(self, adapter: Adapter) -> None:
        """Takes the adapter out of its slot, if it has one."""
        assert not adapter.num_running, "running sequences use it"
        if adapter.slot is None:
            return
        self._detach(adapter)
        self._backend.unload_adapter(adapter.slot)
        self.occupants[adapter.slot] = None
        adapter.slot, adapter.resident = None, False

    def _detach(self, adapter: Adapter) -> None:
        if self._speculators is not None and adapter.resident:
            self._speculators.detach(adapter.key)

    def check_integrity(self) -> None:
        """Asserts that slots and adapters agree."""
        for slot, adapter in enumerate(self.occupants):
            assert adapter is None or adapter.slot == slot
