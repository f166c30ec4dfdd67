"""Adapters by name, from their folders to slots of the backend, while requests use them.

An adapter is in up to three places: its folder, a copy in host memory (as many as ``cache_bytes`` hold, most recently
used first), and a slot of the backend. Files are read in a thread of their own, so steps go on meanwhile; everything
else happens between steps, on the engine's thread. An adapter's speculator is read and laid out with it, is part of the
copy, and drafts while the adapter is in a slot: there it counts as memory even where the copy was dropped.

*Versions.* Every load makes a new ``Adapter`` with a key of its own. Sequences keep the one that they began with: after
a replacement or an unload it stays until the last of them ends. Files that change under a loaded adapter do not change
it: when it must be read again, they are refused until they are loaded again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from paceline.adapters.adapter import Adapter, SpeculatorFacts, Weights, check_name, fingerprint_of
from paceline.adapters.slots import AdapterSlots
from paceline.errors import AdapterError, PacelineError

logger = logging.getLogger(__name__)

Reader = Callable[[Path], Weights]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A read that ended. ``first``: it is the answer to ``load``. ``error``: why the adapter cannot be used; its
    sequences must end then. ``seconds``: of reading and of filling the slot."""

    adapter: Adapter
    first: bool
    error: str | None = None
    seconds: float = 0.0


class AdapterRegistry:
    """See above. ``read``: from a folder to weights, raising ``AdapterError`` for what cannot be used; None: adapters
    are not supported here. ``on_evict`` is called for each adapter that loses its slot to another."""

    def __init__(
        self,
        read: Reader | None,
        slots: AdapterSlots,
        cache_bytes: int,
        executor: Executor | None = None,
        on_evict: Callable[[Adapter], None] = lambda adapter: None,
    ) -> None:
        self.slots = slots
        self._read = read
        self._cache_bytes = cache_bytes
        self.executor = executor
        self._on_evict = on_evict
        self._named: dict[str, Adapter] = {}
        self._pending: dict[str, Adapter] = {}  # first reads, by name
        self._reading: list[Adapter] = []
        self._cached: list[Adapter] = []  # that have a copy in host memory
        self._outcomes: list[Outcome] = []
        self._dropped: list[str] = []
        self._version = 0
        self._clock = 0

    @property
    def names(self) -> list[str]:
        """What requests may name."""
        return list(self._named)

    @property
    def busy(self) -> bool:
        """Whether ``poll`` will have something to tell: files are being read."""
        return bool(self._reading or self._outcomes)

    @property
    def cached_bytes(self) -> int:
        """Of the copies in host memory."""
        return sum(adapter.nbytes for adapter in self._cached)

    @property
    def memory_bytes(self) -> int:
        """Of the copies, and of speculators that draft without one."""
        return self.cached_bytes + sum(one.speculator.nbytes for one in self._drafting() if one.speculator)

    def get(self, name: str) -> Adapter:
        """The version that new requests for ``name`` get; it may still be on its way. Raises ``AdapterError``."""
        adapter = self._named.get(name)
        if adapter is None:
            raise AdapterError(f"there is no adapter {name!r}; " + _listed(self.names))
        return adapter

    def load(self, name: str, folder: Path, *, replace: bool = False, fingerprint: str = "") -> None:
        """Begins to load the adapter in ``folder``; ``poll`` gives the outcome. Until then a name that is replaced
        means the old version, a new one can be named already.

        ``fingerprint``: of files that were loaded before, by an engine that is gone; they are read when they are
        needed. Raises ``AdapterError`` for a name that is taken or busy, and where no adapter is.
        """
        check_name(name)
        if self._read is None or not self.slots.occupants:
            raise AdapterError("this engine cannot use adapters: its backend has no place for them")
        if name in self._pending:
            raise AdapterError(f"the adapter {name!r} is being loaded; try again when it is")
        if name in self._named and not replace:
            raise AdapterError(f"there is an adapter {name!r} already; unload it, or load this one in its place")
        found = fingerprint_of(folder)
        if fingerprint and fingerprint != found:
            raise AdapterError(_changed(folder))
        self._version += 1
        adapter = Adapter(name, self._version, folder, found)
        self._named.setdefault(name, adapter)
        if fingerprint:
            self._outcomes.append(Outcome(adapter, first=True))
        else:
            self._pending[name] = adapter
            self._begin_reading(adapter)

    def unload(self, name: str) -> None:
        """Requests cannot name it any more; it goes when no sequence uses it. Raises ``AdapterError``."""
        adapter = self.get(name)
        if name in self._pending:
            raise AdapterError(f"the adapter {name!r} is being loaded; try again when it is")
        del self._named[name]
        self._retire(adapter)

    def open(self, adapter: Adapter) -> None:
        """One more sequence uses this version."""
        adapter.num_sequences += 1

    def close(self, adapter: Adapter) -> None:
        """A sequence that used it ended."""
        adapter.num_sequences -= 1
        assert adapter.num_sequences >= adapter.num_running >= 0
        self._drop_if_over(adapter)

    def touch(self, adapter: Adapter) -> None:
        """It was used just now."""
        self._clock += 1
        adapter.last_used = self._clock

    def request(self, adapter: Adapter, reserved: Collection[int] = ()) -> bool:
        """Finds a slot for an adapter that has none, not among ``reserved``, and brings its weights there: at once from
        host memory, else they are read now and ``poll`` tells of it. Whether a slot was found."""
        gone = self.slots.assign(adapter, reserved)
        if gone is False:
            return False
        if isinstance(gone, Adapter):
            self._on_evict(gone)
        self.touch(adapter)
        if adapter.weights is None:
            if adapter.reading is None:
                self._begin_reading(adapter)
        else:
            self._outcomes.append(self._settle(adapter, 0.0))
        return True

    def poll(self) -> list[Outcome]:
        """What was read since the last call, now in its slot if it has one."""
        for adapter in [one for one in self._reading if one.reading is not None and one.reading.done()]:
            self._reading.remove(adapter)
            assert adapter.reading is not None
            future, adapter.reading = adapter.reading, None
            try:
                adapter.weights, seconds = future.result()
            except Exception as error:
                self._outcomes.append(self._fail(adapter, error))
                continue
            adapter.nbytes = adapter.weights.nbytes
            if (own := adapter.weights.speculator) is not None:
                adapter.speculator = SpeculatorFacts(own.positions, own.vocab_size, own.nbytes)
            self._cached.append(adapter)
            self.touch(adapter)
            if adapter.slot is None and not adapter.retired:
                self.slots.assign(adapter, evict=False)
            self._outcomes.append(self._settle(adapter, seconds))
            self._trim()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def wait(self, timeout_s: float) -> None:
        """Until a read ends, at most ``timeout_s``."""
        if self._reading and not self._outcomes:
            wait([one.reading for one in self._reading if one.reading is not None], timeout_s, "FIRST_COMPLETED")

    def take_dropped(self) -> list[str]:
        """Keys of versions that are gone since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def check_integrity(self) -> None:
        """Asserts that names, slots, copies and counts agree. For tests and idle times."""
        self.slots.check_integrity()
        known = {*self._named.values(), *self._pending.values(), *self._reading, *self._cached}
        known |= {adapter for adapter in self.slots.occupants if adapter is not None}
        for adapter in known:
            assert 0 <= adapter.num_running <= adapter.num_sequences
            assert adapter.resident or not adapter.num_running, "a running sequence has no weights"
            assert adapter.slot is None or self.slots.occupants[adapter.slot] is adapter
            assert not adapter.resident or adapter.slot is not None
            assert (adapter.weights is not None) == (adapter in self._cached)
            assert (adapter.reading is not None) == (adapter in self._reading)
            assert adapter.slot is None or adapter.resident or adapter.reading is not None, "a slot waits for nothing"
            if adapter.retired:
                assert adapter.num_sequences or adapter.reading is not None, "an unloaded adapter stays"
                assert self._named.get(adapter.name) is not adapter
        assert self.cached_bytes <= self._cache_bytes

    def _begin_reading(self, adapter: Adapter) -> None:
        if self.executor is None:
            self.executor = ThreadPoolExecutor(1, "adapter-reader")
        self._reading.append(adapter)
        adapter.reading = self.executor.submit(self._read_files, adapter.folder, adapter.fingerprint)

    def _read_files(self, folder: Path, fingerprint: str) -> tuple[Weights, float]:
        """On the reader's thread."""
        assert self._read is not None
        started = time.perf_counter()
        if fingerprint_of(folder) != fingerprint:
            raise AdapterError(_changed(folder))
        weights = self._read(folder)
        if fingerprint_of(folder) != fingerprint:
            raise AdapterError(f"the adapter in {folder} was written while it was read; load it when it is complete")
        return weights, time.perf_counter() - started

    def _settle(self, adapter: Adapter, seconds: float) -> Outcome:
        """The weights are in host memory: on to the slot, and to the name that waits for them."""
        if adapter.slot is not None:
            started = time.perf_counter()
            try:
                self.slots.fill(adapter)
            except Exception as error:
                return self._fail(adapter, error)
            seconds += time.perf_counter() - started
        first = self._pending.get(adapter.name) is adapter
        if first:
            del self._pending[adapter.name]
            before = self._named[adapter.name]
            self._named[adapter.name] = adapter
            if before is not adapter:
                self._retire(before)
        self._drop_if_over(adapter)
        return Outcome(adapter, first, seconds=seconds)

    def _fail(self, adapter: Adapter, error: Exception) -> Outcome:
        """The adapter cannot be used. One that could be once keeps its name: its files may come back."""
        if not isinstance(error, PacelineError):
            logger.error("adapter %s", adapter.key, exc_info=error)
        text = str(error) if isinstance(error, PacelineError) else f"{type(error).__name__}: {error}"
        self.slots.clear(adapter)
        self._forget_copy(adapter)
        first = self._pending.get(adapter.name) is adapter
        if first:
            del self._pending[adapter.name]
            if self._named[adapter.name] is adapter:
                del self._named[adapter.name]
            adapter.retired = True
        self._drop_if_over(adapter)
        return Outcome(adapter, first, error=f"the adapter {adapter.name!r} cannot be used: {text}")

    def _retire(self, adapter: Adapter) -> None:
        adapter.retired = True
        self._drop_if_over(adapter)

    def _drop_if_over(self, adapter: Adapter) -> None:
        if not adapter.retired or adapter.num_sequences or adapter.reading is not None:
            return
        self.slots.clear(adapter)
        self._forget_copy(adapter)
        self._dropped.append(adapter.key)

    def _trim(self) -> None:
        """Drops copies, the least recently used first, until the others fit. A speculator is memory in its slot, too:
        an adapter with one leaves its slot with the copy, unless there are sequences for it."""
        for adapter in sorted([*self._cached, *self._drafting()], key=lambda one: one.last_used):
            if self.memory_bytes <= self._cache_bytes:
                return
            self._forget_copy(adapter)
            if adapter.speculator is not None and adapter.resident and not adapter.num_sequences:
                self.slots.clear(adapter)
                self._on_evict(adapter)

    def _drafting(self) -> list[Adapter]:
        """Adapters without a copy whose speculators draft."""
        occupants = (one for one in self.slots.occupants if one is not None and one.resident)
        return [one for one in occupants if one.speculator is not None and one.weights is None]

    def _forget_copy(self, adapter: Adapter) -> None:
        if adapter.weights is not None:
            adapter.weights = None
            self._cached.remove(adapter)

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self._named.values())


def _listed(names: list[str]) -> str:
    return "there are " + ", ".join(map(repr, names)) if names else "none is loaded"


def _changed(folder: Path) -> str:
    return f"the files in {folder} have changed since they were loaded; load them again in place of the old ones"
