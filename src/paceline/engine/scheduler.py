"""What is computed in the next step, and for whom.

There is one kind of work: *sequence s computes n tokens from position p*. A sequence's wish is its known tokens that
are not computed yet; a step gives out at most ``max_rows`` rows for these. Latency class first (batch sequences see
only what interactive ones leave), then inside a class: one row for every running sequence, then prompts, of running
and of new sequences. Everything in the order (class, priority, arrival). Behind them come rows for draft tokens, at
most ``max_draft_rows``: how many are worth their time is not decided here but by the controller of speculation, which
is asked once it is known what else is in the step.

Guarantees, given that every request ends (``end`` is finite) and fits the cache alone (checked when it is added):

* *Progress.* In every step with work, the first running sequence of the best class present computes at least one token.
  It is never preempted, except for a waiting sequence of a better class or priority, because victims are taken from
  the end of the order.
* *No starvation.* Within one class and priority, nobody overtakes: a waiting sequence is started before every later
  one, so it waits for a finite number of others. A stream of better class or priority may hold it back for as long
  as that stream fills the machine; that is what class and priority mean.
* *Adapters.* A sequence whose adapter has no slot is passed over; ``engine/adapters.py`` says how it gets one.
* *Drafts are free riders.* They preempt nobody, and take no row that a known token could have had.
"""

from __future__ import annotations

import time
from bisect import insort
from operator import attrgetter

from paceline.backends.base import MAX_TREE_ROWS
from paceline.engine.adapters import Adapters
from paceline.engine.sequence import CLASS_RANK, Sequence, State
from paceline.kv.cache import KVCache
from paceline.speculation.draft import Draft

#: Rows a step of a sequence whose prompt logprobs are wanted: each needs a row of logits (vocabulary-sized).
PROMPT_LOGPROB_ROWS = 64

_ORDER = attrgetter("order")


class Scheduler:
    """Running and waiting sequences, and the step plan made from them.

    ``schedule`` writes each planned sequence's ``rows`` and returns them in order; ``grant`` then gives rows to drafts.
    After the step the engine calls ``advance`` for each and ``finish`` for those that ended.
    """

    def __init__(
        self,
        cache: KVCache,
        max_rows: int,
        max_running: int,
        max_draft_rows: int = 0,
        adapters: Adapters | None = None,
    ) -> None:
        self.cache = cache
        self.adapters = adapters
        self.max_rows = max_rows
        self.max_running = max_running
        self.max_draft_rows = max_draft_rows
        self.running: list[Sequence] = []  # in order
        self.waiting: list[Sequence] = []  # in order
        self.num_held = 0
        self.num_preemptions = 0
        self._budget = 0
        self._draft_budget = 0
        self._planned: list[Sequence] = []
        self._blocked: tuple[Sequence, int] | None = None  # head of the queue that did not fit, free blocks then

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + self.num_held

    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequences: list[Sequence]) -> None:
        """Queues the sequences of one request. When they can share prompt blocks, the first computes the prompt and
        the others are held until it has."""
        if not sequences:
            return
        leader = sequences[0]
        followers = sequences[1:]
        if self._shared_length(leader) == 0:
            for sequence in followers:
                self._queue(sequence)
            followers = []
        for sequence in followers:
            sequence.state = State.HELD
        self.num_held += len(followers)
        leader.followers = followers
        self._queue(leader)

    def schedule(self) -> list[Sequence]:
        """Plans one step: at most ``max_rows``, at least one row if there is work, unless all of it waits for adapters
        that are being read."""
        self._budget, self._draft_budget = self.max_rows, self.max_draft_rows
        self._planned = []
        if self.adapters is not None:
            self.adapters.begin_step()
        for rank in CLASS_RANK.values():
            if self._budget and self.running:
                self._serve_running(rank)
            self._start_waiting((rank + 1,))
        reading = self.adapters is not None and self.adapters.busy
        assert self._planned or reading or not self.has_work(), "a step with work must compute something"
        return self._planned

    def grant(self, sequence: Sequence, draft: Draft) -> Draft | None:
        """Gives a planned sequence that samples rows for as much of a draft as fits: into what is left of the step's
        draft rows, the free blocks, the block table, and for a tree the ancestor mask. That part, or None."""
        assert sequence.completes and sequence.draft is None
        room = min(
            self._draft_budget,
            self.cache.room(sequence.table) - sequence.length,
            self.cache.max_tokens - sequence.length,
        )
        if draft.parents is not None:
            room = min(room, MAX_TREE_ROWS - sequence.rows)
        draft = draft.trim(max(room, 0))
        if not len(draft):
            return None
        granted = self.cache.extend(sequence.table, sequence.length + len(draft))
        assert granted
        sequence.draft = draft
        self._draft_budget -= len(draft)
        return draft

    def advance(self, sequence: Sequence, computed: int) -> None:
        """After a step: the first ``computed`` tokens (all of them accepted) are in the cache."""
        assert sequence.computed <= computed <= sequence.length
        sequence.computed = computed
        sequence.rows = 0
        sequence.draft = None
        self.cache.advance(sequence.table, sequence.token_ids, computed)
        if sequence.followers and computed >= self._shared_length(sequence):
            self._release_followers(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Takes a sequence out, wherever it is, and gives back its blocks."""
        state, sequence.state = sequence.state, State.FINISHED
        sequence.rows = 0
        sequence.draft = None
        if state is State.RUNNING:
            self._stop(sequence)
        elif state is State.WAITING:
            self.waiting.remove(sequence)
        elif state is State.HELD:
            self.num_held -= 1
        self._blocked = None
        self._hand_over(sequence)

    def _serve_running(self, rank: int) -> None:
        members = [sequence for sequence in self.running if sequence.class_rank == rank]
        more = False
        for sequence in members:
            if not self._budget:
                return
            if sequence.state is State.RUNNING and self._make_room(sequence):
                self._plan(sequence, 1)
                more = more or sequence.pending > 1
        if not more:
            return
        for sequence in members:
            if sequence.rows and sequence.pending > 1:
                self._start_waiting(sequence.order)
                if sequence.rows:  # still: it may have made room for a better one
                    self._grow(sequence)

    def _start_waiting(self, before: tuple[float, ...]) -> None:
        """Starts waiting sequences that come before ``before`` in the order, until one does not fit. Those whose
        adapters have no slot are passed over."""
        place = 0
        while self._budget and place < len(self.waiting) and self.waiting[place].order < before:
            sequence = self.waiting[place]
            if not self._find_slot(sequence):
                place += 1
            elif not self._start(sequence):
                break

    def _plan(self, sequence: Sequence, rows: int) -> None:
        sequence.rows = rows
        self._budget -= rows
        self._planned.append(sequence)

    def _grow(self, sequence: Sequence) -> None:
        """Gives a planned sequence more of its wish, as far as budget and free blocks reach. Preempts nobody."""
        budget, start = self._budget, sequence.computed + sequence.rows
        if sequence.wants_prompt_logprobs and sequence.computed < sequence.prompt_length:
            budget = min(budget, PROMPT_LOGPROB_ROWS - sequence.rows)
        wish = min(sequence.length - start, budget)
        if wish <= 0:
            return
        wish = min(wish, self.cache.room(sequence.table) - start)
        granted = self.cache.extend(sequence.table, start + wish)
        assert granted
        sequence.rows += wish
        self._budget -= wish

    def _make_room(self, sequence: Sequence) -> bool:
        """A slot for the sequence's next token, at the cost of the last in order if need be; False: it was the last."""
        while not self.cache.extend(sequence.table, sequence.computed + 1):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the queue without blocks. What it had computed stays findable in the prefix cache for a while."""
        if sequence.rows:
            self._budget += sequence.rows
            self._planned.remove(sequence)
            sequence.rows = 0
        self._stop(sequence)
        sequence.computed = 0
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self._queue(sequence)

    def _stop(self, sequence: Sequence) -> None:
        """Takes a sequence out of the running batch."""
        self.running.remove(sequence)
        self.cache.free(sequence.table)
        if sequence.version is not None and self.adapters is not None:
            self.adapters.stopped(sequence)

    def _find_slot(self, sequence: Sequence) -> bool:
        """Whether the sequence's adapter is ready for it; if not, it is made ready or its turn is kept."""
        version, adapters = sequence.version, self.adapters
        if version is None or adapters is None or adapters.take(sequence):
            return True
        if version.slot is not None:  # being read, or reserved for one before it
            return False
        victims = adapters.yielding(sequence, self.running)
        if not victims:
            adapters.reserve(sequence, self.running)
            return False
        for victim in victims:
            self._preempt(victim)
        return adapters.take(sequence)

    def _start(self, sequence: Sequence) -> bool:
        """Starts a waiting sequence that has its adapter when it fits whole, preempting running sequences of worse
        class or priority."""
        if self._still_blocked(sequence):
            return False
        if not self._find_place(sequence):
            return False
        cache, table = self.cache, sequence.table
        cached = cache.attach(table, sequence.token_ids, sequence.cacheable)
        if not self._find_blocks(sequence):
            cache.free(table)
            self._blocked = (sequence, self._num_free())
            return False
        self._blocked = None
        if sequence.first_scheduled is None:
            sequence.first_scheduled = time.time()
            sequence.num_cached = min(cached, sequence.prompt_length)
            cache.record_lookup(sequence.length, cached)
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_ORDER)
        sequence.state = State.RUNNING
        if sequence.version is not None and self.adapters is not None:
            self.adapters.started(sequence)
        sequence.computed = cached
        granted = cache.extend(table, cached + 1)
        assert granted
        self._plan(sequence, 1)
        self._grow(sequence)
        return True

    def _still_blocked(self, sequence: Sequence) -> bool:
        if self._blocked is None:
            return False
        head, free = self._blocked
        return head is sequence and bool(self.running) and self._num_free() <= free

    def _num_free(self) -> int:
        return sum(pool.num_free for pool in self.cache.pools)

    def _find_place(self, sequence: Sequence) -> bool:
        """One of the ``max_running`` places."""
        if len(self.running) < self.max_running:
            return True
        victim = self.running[-1]
        if victim.order[:2] <= sequence.order[:2]:
            return False
        self._preempt(victim)
        return True

    def _find_blocks(self, sequence: Sequence) -> bool:
        """Free blocks for all known tokens and the next, and one for each running sequence to grow into, so that a
        newcomer is not started only to be preempted in the next step."""
        cache, table, tokens = self.cache, sequence.table, sequence.length + 1
        tokens = min(tokens, cache.max_tokens)
        shortage = cache.shortage(table, tokens, len(self.running))
        if shortage <= 0:
            return True
        victims = [other for other in self.running if other.order[:2] > sequence.order[:2]]
        if sum(victim.table.num_blocks + 1 for victim in victims) < shortage:
            return False
        while victims:
            self._preempt(victims.pop())
            if cache.shortage(table, tokens, len(self.running)) <= 0:
                return True
        return False

    def _queue(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        insort(self.waiting, sequence, key=_ORDER)

    def _shared_length(self, leader: Sequence) -> int:
        """Tokens of the prompt that other sequences of the request can take from the prefix cache."""
        if not self.cache.prefix_cache:
            return 0
        size = self.cache.block_size
        return (leader.prompt_length - 1) // size * size

    def _release_followers(self, leader: Sequence) -> None:
        followers, leader.followers = leader.followers, []
        for sequence in followers:
            if sequence.state is State.HELD:
                self.num_held -= 1
                self._queue(sequence)

    def _hand_over(self, leader: Sequence) -> None:
        """The leader ended before it had computed the prompt: the next sequence of the request takes its part."""
        followers, leader.followers = leader.followers, []
        alive = [sequence for sequence in followers if sequence.state is State.HELD]
        if not alive:
            return
        heir = alive[0]
        heir.followers = alive[1:]
        heir.wants_prompt_logprobs = leader.wants_prompt_logprobs
        self.num_held -= 1
        self._queue(heir)

    def check_integrity(self, live: list[Sequence]) -> None:
        """Asserts that every unfinished sequence (``live``) is in exactly one place, and the queues are in order."""
        held = [sequence for sequence in live if sequence.state is State.HELD]
        assert len(held) == self.num_held
        followers = [other for sequence in live for other in sequence.followers if other.state is State.HELD]
        assert {other.key for other in followers} == {other.key for other in held}, "a held sequence has no leader"
        queued = [*self.running, *self.waiting, *held]
        assert sorted(sequence.key for sequence in queued) == sorted(sequence.key for sequence in live)
        for queue, state in ((self.running, State.RUNNING), (self.waiting, State.WAITING)):
            assert all(sequence.state is state for sequence in queue)
            assert queue == sorted(queue, key=_ORDER)
        for sequence in live:
            assert (sequence.table.row >= 0) == (sequence.state is State.RUNNING)
            assert sequence.computed < sequence.length
            assert sequence.computed <= sequence.table.num_blocks * self.cache.block_size
