"""Adapters in the step loop: who may run with which, who waits for a slot, and what is counted.

Running sequences hold their adapter's slot, so at most as many different adapters run as there are slots. A sequence
whose adapter has none waits, and nobody waits for it but those whose adapter must make room:

* A slot that no running sequence holds is given away, the least recently used first.
* Where there is none, running sequences of a worse class or priority are preempted if that sets a slot free.
* Otherwise a slot is *reserved*: the one whose running sequences end soonest. No sequence that is behind the waiting
  one in the order is started with that slot's adapter, so the slot becomes free when those that run have ended.

No starvation: the first waiting sequence of the order always has a slot or a reservation. The most tokens that any
sequence of the reserved slot may still compute grows only through sequences before it in the order, and shrinks with
every token computed; another slot is chosen only when it is nearer to its end. So the wait is finite as the scheduler
defines it: as long as no endless stream of better class or priority comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

from paceline.adapters.adapter import Adapter, Speculators
from paceline.adapters.registry import AdapterRegistry, Outcome, Reader
from paceline.adapters.slots import AdapterSlots
from paceline.backends.base import Backend
from paceline.engine.messages import AdapterInfo, AdapterReply, AdapterStats, EngineStats, SpeculatorInfo
from paceline.engine.sequence import Sequence
from paceline.errors import AdapterError, InvalidRequestError

CACHE_SHARE = 0.1  # of the free memory, for copies of adapters


@dataclass(frozen=True, slots=True)
class Reservation:
    """Who gets a slot when it becomes free, and its place in the order."""

    adapter: Adapter
    order: tuple[float, ...]


def num_slots(backend: Backend, wish: int | None) -> int:
    """Slots to use. Raises ``InvalidRequestError`` for more than the backend has."""
    most = backend.max_adapters
    if wish is not None and wish > most:
        raise InvalidRequestError(
            f"max_adapters is {wish}, but the backend {backend.name} runs at most {most} different adapters at once",
            "max_adapters",
        )
    return most if wish is None else wish


class Adapters:
    """The registry as scheduler and engine see it. ``read`` None: requests with adapters are refused.
    ``speculators``: who drafts with those that ``read`` gives."""

    def __init__(
        self,
        backend: Backend,
        stats: EngineStats,
        read: Reader | None = None,
        *,
        max_adapters: int | None = None,
        cache_bytes: int = 0,
        speculators: Speculators | None = None,
    ) -> None:
        count = 0 if read is None else num_slots(backend, max_adapters)
        slots = AdapterSlots(backend, count, speculators)
        self.registry = AdapterRegistry(read, slots, cache_bytes, on_evict=self._count_eviction)
        self._slots = slots
        self._stats = stats
        self._entries: dict[str, AdapterStats] = {}
        self._reserved: dict[int, Reservation] = {}  # of this step, by slot

    @property
    def num_slots(self) -> int:
        """Most different adapters in one step."""
        return len(self._slots.occupants)

    @property
    def busy(self) -> bool:
        """Whether files are being read, or something is to be told of that."""
        return self.registry.busy

    # Requests

    def find(self, name: str | None) -> Adapter | None:
        """The version for a new request. Raises ``InvalidRequestError``."""
        if name is None:
            return None
        try:
            return self.registry.get(name)
        except AdapterError as error:
            raise InvalidRequestError(str(error), "adapter") from None

    def open(self, adapter: Adapter, sequences: int) -> None:
        """A request came, with so many sequences."""
        entry = self._entry(adapter)
        entry.requests += 1
        entry.waiting += sequences
        for _ in range(sequences):
            self.registry.open(adapter)

    def close(self, adapter: Adapter) -> None:
        """A sequence ended; it does not run any more."""
        self._entry(adapter).waiting -= 1
        self.registry.close(adapter)

    def count_tokens(self, adapter: Adapter, count: int) -> None:
        """The adapter's sequences took so many tokens."""
        self._entry(adapter).generation_tokens += count

    # Steps

    def begin_step(self) -> None:
        """Reservations are made anew in every step, by whoever waits first."""
        self._reserved.clear()

    def take(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence may run: its weights are in a slot, which is not reserved for one before it."""
        adapter = sequence.version
        assert adapter is not None
        if adapter.slot is None:
            self.registry.request(adapter, self._reserved)
            return adapter.resident
        reservation = self._reserved.get(adapter.slot)
        return adapter.resident and (reservation is None or sequence.order < reservation.order)

    def yielding(self, sequence: Sequence, running: Seq[Sequence]) -> list[Sequence]:
        """Running sequences to preempt so that one without a slot gets one: all that use some adapter, if all of them
        are of a worse class or priority. [] where there is no such adapter."""
        fewest: list[Sequence] = []
        for adapter in self._candidates():
            users = [other for other in running if other.version is adapter]
            if all(user.order[:2] > sequence.order[:2] for user in users) and (not fewest or len(users) < len(fewest)):
                fewest = users
        return fewest

    def reserve(self, sequence: Sequence, running: Seq[Sequence]) -> None:
        """The slot that becomes free soonest is kept for a sequence whose adapter has none."""
        assert sequence.version is not None and sequence.version.slot is None
        if any(reservation.adapter is sequence.version for reservation in self._reserved.values()):
            return
        soonest = min(
            self._candidates(), key=lambda adapter: (_longest(adapter, running), adapter.last_used), default=None
        )
        if soonest is not None and soonest.slot is not None:
            self._reserved[soonest.slot] = Reservation(sequence.version, sequence.order)

    def started(self, sequence: Sequence) -> None:
        """It joined the running batch."""
        adapter = sequence.version
        assert adapter is not None and adapter.resident
        adapter.num_running += 1
        self.registry.touch(adapter)
        entry = self._entry(adapter)
        entry.running += 1
        entry.waiting -= 1

    def stopped(self, sequence: Sequence) -> None:
        """It left the running batch: it ended, or was preempted."""
        adapter = sequence.version
        assert adapter is not None and adapter.num_running > 0
        adapter.num_running -= 1
        self.registry.touch(adapter)
        entry = self._entry(adapter)
        entry.running -= 1
        entry.waiting += 1

    def _candidates(self) -> Iterable[Adapter]:
        """Adapters that could give up their slots."""
        occupants = enumerate(self._slots.occupants)
        return (one for slot, one in occupants if one is not None and one.resident and slot not in self._reserved)

    # Loading

    def load(self, name: str, folder: str, *, replace: bool = False, fingerprint: str = "") -> None:
        """Begins to load an adapter; ``poll`` tells the outcome. Raises ``AdapterError``."""
        self.registry.load(name, Path(folder).expanduser().absolute(), replace=replace, fingerprint=fingerprint)

    def unload(self, name: str) -> None:
        """New requests cannot name it; it goes with its last sequence. Raises ``AdapterError``."""
        self.registry.unload(name)

    def poll(self) -> tuple[list[AdapterReply], list[tuple[Adapter, str]]]:
        """Answers to ``load``, and adapters that cannot be used, with the reason: their sequences must end."""
        replies: list[AdapterReply] = []
        failed: list[tuple[Adapter, str]] = []
        for outcome in self.registry.poll():
            self._count_load(outcome)
            if outcome.error is not None and outcome.adapter.num_sequences:
                failed.append((outcome.adapter, outcome.error))
            if outcome.first:
                replies.append(_reply(outcome))
        return replies, failed

    def infos(self) -> list[AdapterInfo]:
        """What requests may name."""
        return [_info(adapter) for adapter in self.registry]

    def check_integrity(self, live: Seq[Sequence]) -> None:
        """Asserts that the counts are those of the unfinished sequences ``live``."""
        self.registry.check_integrity()
        users: dict[Adapter, list[Sequence]] = {}
        for sequence in live:
            if sequence.version is not None:
                users.setdefault(sequence.version, []).append(sequence)
        for adapter in {*self.registry, *users, *(one for one in self._slots.occupants if one is not None)}:
            own = users.get(adapter, [])
            assert adapter.num_sequences == len(own)
            assert adapter.num_running == sum(sequence.table.row >= 0 for sequence in own)
        running: dict[str, int] = {}
        for adapter, own in users.items():
            running[adapter.name] = running.get(adapter.name, 0) + sum(sequence.table.row >= 0 for sequence in own)
        for name, entry in self._entries.items():
            assert entry.running == running.get(name, 0)

    def _entry(self, adapter: Adapter) -> AdapterStats:
        entry = self._entries.get(adapter.name)
        if entry is None:
            entry = self._entries[adapter.name] = AdapterStats(adapter=adapter.name)
            self._stats.adapters.append(entry)
        return entry

    def _count_load(self, outcome: Outcome) -> None:
        if outcome.error is None and outcome.seconds:
            entry = self._entry(outcome.adapter)
            entry.loads += 1
            entry.load_seconds += outcome.seconds

    def _count_eviction(self, adapter: Adapter) -> None:
        self._entry(adapter).evictions += 1


def _longest(adapter: Adapter, running: Seq[Sequence]) -> int:
    """The most tokens that a running sequence of ``adapter`` may still have to compute."""
    return max((one.end - one.computed for one in running if one.version is adapter), default=0)


def _info(adapter: Adapter) -> AdapterInfo:
    facts = adapter.speculator
    return AdapterInfo(
        name=adapter.name,
        path=str(adapter.folder),
        fingerprint=adapter.fingerprint,
        version=adapter.version,
        nbytes=adapter.nbytes,
        speculator=None if facts is None else SpeculatorInfo(**facts._asdict()),
    )


def _reply(outcome: Outcome) -> AdapterReply:
    if outcome.error is not None:
        return AdapterReply(name=outcome.adapter.name, error=outcome.error)
    return AdapterReply(name=outcome.adapter.name, info=_info(outcome.adapter))
