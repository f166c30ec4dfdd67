"""What is computed next, and for whom. No model: steps are pretended to succeed."""

from __future__ import annotations

import pytest
from fake_model import EOS, fake_spec, make_request, prompt_of

from paceline.engine.scheduler import PROMPT_LOGPROB_ROWS, Scheduler
from paceline.engine.sequence import Sequence, State
from paceline.kv.cache import KVCache
from paceline.speculation.draft import Draft

CONTEXT = 256
DRAFT_ROWS = 48


class Bench:
    """A scheduler with its cache, and sequences that take any token."""

    def __init__(self, max_rows: int = 64, max_running: int = 8, num_blocks: int = 64, prefix: bool = True) -> None:
        spec = fake_spec(context=CONTEXT).cache_spec()
        context = min(CONTEXT, num_blocks * 16)
        self.cache = KVCache(spec, [num_blocks], max_running, context, prefix_cache=prefix)
        self.scheduler = Scheduler(self.cache, max_rows, max_running, max_draft_rows=DRAFT_ROWS)
        self.limit = context
        self.serial = 0
        self.live: list[Sequence] = []

    def add(self, length: int, n: int = 1, seed: int | None = None, arrival: float | None = None, **fields) -> Sequence:
        """Queues a request of ``n`` sequences; gives the first."""
        seed = self.serial if seed is None else seed
        request = make_request(f"r{self.serial}", prompt_of(length, seed), n=n, **fields)
        request.arrival_time = float(self.serial) if arrival is None else arrival
        sequences = []
        for index in range(n):
            table = self.cache.new_table()
            sequence = Sequence(request, index, table, limit=self.limit, eos_ids=frozenset({EOS}), serial=self.serial)
            self.serial += 1
            sequences.append(sequence)
        self.live += sequences
        self.scheduler.add(sequences)
        self.check()
        return sequences[0]

    def step(self, drafts: dict[Sequence, Draft] | None = None) -> dict[Sequence, tuple[int, int]]:
        """Plans, asks for ``drafts``, pretends to compute without accepting a draft token; (rows, draft rows) of each
        planned sequence."""
        planned = self.scheduler.schedule()
        for sequence in planned:
            if drafts and sequence in drafts and sequence.completes:
                self.scheduler.grant(sequence, drafts[sequence])
        plan = {sequence: (sequence.rows, sequence.draft_rows) for sequence in planned}
        assert len(plan) == len(planned)
        assert sum(rows for rows, _ in plan.values()) <= self.scheduler.max_rows
        assert sum(drafts for _, drafts in plan.values()) <= DRAFT_ROWS
        for sequence in planned:
            computed = sequence.computed + sequence.rows
            if sequence.completes:
                sequence.append([1])
            self.scheduler.advance(sequence, computed)
        self.check()
        return plan

    def finish(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        self.live.remove(sequence)
        self.check()

    def check(self) -> None:
        self.scheduler.check_integrity(self.live)
        self.cache.check_integrity(sequence.table for sequence in self.live)


def chain(length: int) -> Draft:
    return Draft(tuple(range(length)), "test")


def test_a_prompt_is_computed_in_chunks_of_the_budget() -> None:
    bench = Bench(max_rows=16)
    sequence = bench.add(40)
    assert [bench.step()[sequence] for _ in range(4)] == [(16, 0), (16, 0), (8, 0), (1, 0)]


def test_running_sequences_come_before_a_new_prompt() -> None:
    bench = Bench(max_rows=16)
    running = [bench.add(3) for _ in range(3)]
    bench.step()
    new = bench.add(50)
    assert bench.step() == {**dict.fromkeys(running, (1, 0)), new: (13, 0)}


def test_drafts_take_no_row_of_a_known_token() -> None:
    bench = Bench(max_rows=16)
    first, second = bench.add(3), bench.add(3)
    prompt = bench.add(100)
    bench.step()
    assert bench.step({first: chain(4), second: chain(3)}) == {first: (1, 4), second: (1, 3), prompt: (14, 0)}


def test_a_draft_is_cut_to_what_is_left_of_the_draft_rows() -> None:
    bench = Bench(max_rows=8)
    first, second, third = bench.add(2), bench.add(2), bench.add(2)
    bench.step()
    plan = bench.step({first: chain(40), second: chain(20), third: chain(3)})
    assert plan == {first: (1, 40), second: (1, 8), third: (1, 0)}


def test_a_tree_is_cut_to_the_ancestor_mask() -> None:
    bench = Bench(max_rows=40)
    sequence = bench.add(30)
    tree = Draft(tuple(range(40)), "test", (-1, -1, *range(38)))
    assert bench.step({sequence: tree}) == {sequence: (30, 34)}


def test_a_draft_may_follow_the_last_chunk_of_a_prompt() -> None:
    bench = Bench(max_rows=16)
    sequence = bench.add(20)
    assert bench.step({sequence: chain(5)})[sequence] == (16, 0)
    assert bench.step({sequence: chain(5)})[sequence] == (4, 5)
    assert sequence.draft is None


def test_rejected_tokens_do_not_advance_computed_length() -> None:
    bench = Bench()
    sequence = bench.add(20)
    bench.step()
    bench.step({sequence: chain(30)})
    assert (sequence.length, sequence.computed) == (22, 21)


def test_drafts_preempt_nobody() -> None:
    bench = Bench(num_blocks=4)
    first, second = bench.add(15), bench.add(15)
    bench.step()
    plan = bench.step({first: chain(40), second: chain(40)})
    assert plan == {first: (1, 15 + 32), second: (1, 0)} or plan[first][1] + plan[second][1] > 0
    assert bench.scheduler.num_preemptions == 0
    assert [sequence.state for sequence in (first, second)] == [State.RUNNING] * 2


def test_the_latest_of_the_lowest_priority_is_preempted_when_blocks_run_out() -> None:
    bench = Bench(num_blocks=6)
    important = bench.add(14, priority=-1)
    oldest, latest = bench.add(30), bench.add(14)
    bench.step()
    for _ in range(3):
        bench.step()
    bench.add(5, arrival=99.0)
    for _ in range(14):
        bench.step()
    assert latest.num_preemptions > 0
    assert (important.num_preemptions, oldest.num_preemptions) == (0, 0)
    assert important.state is State.RUNNING


def test_a_preempted_sequence_recomputes_only_what_the_prefix_cache_lost() -> None:
    bench = Bench(max_rows=64, num_blocks=8)
    oldest, latest = bench.add(60), bench.add(40)
    while latest.num_preemptions == 0:
        bench.step()
    assert (latest.computed, latest.state) == (0, State.WAITING)
    bench.finish(oldest)
    assert bench.step()[latest][0] < 16
    assert latest.computed > 40


def test_a_sequence_that_fits_alone_always_progresses() -> None:
    bench = Bench(max_rows=32, num_blocks=8)
    first = bench.add(60)
    others = [bench.add(60) for _ in range(4)]
    while first.length < bench.limit:
        before = first.computed
        bench.step()
        assert first.computed > before
    assert first.num_preemptions == 0
    assert all(sequence.computed == 0 for sequence in others)


def test_nobody_overtakes_a_waiting_sequence_that_does_not_fit() -> None:
    bench = Bench(num_blocks=8)
    running = bench.add(60)
    bench.step()
    large = bench.add(90)
    small = bench.add(5)
    bench.step()
    assert (large.state, small.state) == (State.WAITING, State.WAITING)
    bench.finish(running)
    assert list(bench.step()) == [large]


def test_waiting_sequences_start_by_priority_then_arrival() -> None:
    bench = Bench(max_running=1)
    bench.step()
    late, low, high = (
        bench.add(5, arrival=9.0),
        bench.add(5, arrival=1.0, priority=1),
        bench.add(5, arrival=10.0, priority=-1),
    )
    order = []
    for _ in range(3):
        (sequence,) = bench.step()
        order.append(sequence)
        bench.finish(sequence)
    assert order == [high, late, low]


def test_a_better_priority_takes_the_place_of_a_worse_one() -> None:
    bench = Bench(max_running=2)
    first, second = bench.add(5), bench.add(5)
    bench.step()
    urgent = bench.add(5, priority=-5)
    bench.step()
    assert [sequence.state for sequence in (first, second, urgent)] == [State.RUNNING, State.WAITING, State.RUNNING]


def test_rows_of_a_preempted_plan_go_to_the_one_that_preempted() -> None:
    bench = Bench(max_rows=16, max_running=1)
    bench.add(5)
    bench.step()
    urgent = bench.add(50, priority=-5)
    assert bench.step() == {urgent: (16, 0)}


def test_a_prompt_of_better_priority_comes_before_the_rest_of_a_running_one() -> None:
    bench = Bench(max_rows=16)
    running = bench.add(60)
    bench.step()
    urgent = bench.add(10, priority=-1)
    assert bench.step() == {running: (1 + 5, 0), urgent: (10, 0)}


def test_a_prompt_of_equal_priority_waits_for_the_rest_of_a_running_one() -> None:
    bench = Bench(max_rows=16)
    running = bench.add(60)
    bench.step()
    bench.add(10)
    assert bench.step() == {running: (16, 0)}


def test_a_newcomer_leaves_every_running_sequence_a_block_to_grow_into() -> None:
    bench = Bench(num_blocks=6)
    running = [bench.add(15), bench.add(15)]
    bench.step()
    newcomer = bench.add(40)  # three blocks: would leave one for two
    assert set(bench.step()) == set(running)
    bench.finish(running[1])
    assert newcomer in bench.step()


def test_an_equal_priority_waits_for_a_place() -> None:
    bench = Bench(max_running=2)
    bench.add(5), bench.add(5)
    bench.step()
    third = bench.add(5)
    assert len(bench.step()) == 2
    assert third.state is State.WAITING and bench.scheduler.num_preemptions == 0


def test_batch_class_fills_only_spare_budget() -> None:
    bench = Bench(max_rows=16)
    batch = bench.add(3, latency_class="batch")
    bench.step()
    interactive = bench.add(40)
    assert bench.step() == {interactive: (16, 0)}
    assert bench.step() == {interactive: (16, 0)}
    assert bench.step() == {interactive: (8, 0), batch: (1, 0)}


def test_batch_class_is_preempted_first_whatever_its_priority() -> None:
    bench = Bench(num_blocks=8)
    batch = bench.add(60, latency_class="batch", priority=-100)
    bench.step()
    interactive = bench.add(70, priority=100)
    assert list(bench.step()) == [interactive]
    assert batch.state is State.WAITING


def test_a_newcomer_preempts_nobody_if_that_would_not_make_room() -> None:
    bench = Bench(num_blocks=8)
    first = bench.add(60)
    batch = bench.add(5, latency_class="batch")
    bench.step()
    bench.add(100)
    bench.step()
    assert bench.scheduler.num_preemptions == 0
    assert batch.state is first.state is State.RUNNING


def test_siblings_wait_until_the_first_has_computed_the_prompt() -> None:
    bench = Bench(max_rows=32)
    leader = bench.add(50, n=3)
    siblings = bench.live[1:]
    assert bench.step() == {leader: (32, 0)}
    assert all(sequence.state is State.HELD for sequence in siblings)
    assert bench.scheduler.num_waiting == 2
    assert bench.step() == {leader: (18, 0)}
    assert bench.step() == {leader: (1, 0), siblings[0]: (2, 0), siblings[1]: (2, 0)}
    assert bench.cache.num_used_blocks == 3 + 3


def test_a_sibling_that_is_aborted_while_it_is_held_does_not_come_back() -> None:
    bench = Bench(max_rows=32)
    leader = bench.add(50, n=3)
    first, second = bench.live[1:]
    bench.step()
    bench.finish(first)
    bench.step()
    assert bench.step() == {leader: (1, 0), second: (2, 0)}
    assert bench.scheduler.num_waiting == 0


def test_siblings_of_a_short_prompt_start_at_once() -> None:
    bench = Bench()
    bench.add(16, n=3)
    assert len(bench.step()) == 3


def test_siblings_start_at_once_without_a_prefix_cache() -> None:
    bench = Bench(max_rows=256, prefix=False)
    bench.add(50, n=3)
    assert len(bench.step()) == 3


def test_the_next_sibling_takes_over_when_the_first_is_aborted() -> None:
    bench = Bench(max_rows=32)
    leader = bench.add(50, n=4)
    heir, other, gone = bench.live[1:]
    bench.step()
    bench.finish(gone)
    bench.finish(leader)
    assert (heir.state, other.state) == (State.WAITING, State.HELD)
    assert bench.step() == {heir: (18, 0)}  # the leader's two full blocks are in the prefix cache
    assert bench.step() == {heir: (1, 0), other: (2, 0)}


def test_prompt_logprobs_bound_the_rows_of_a_step() -> None:
    bench = Bench(max_rows=256)
    sequence = bench.add(200)
    sequence.wants_prompt_logprobs = True
    assert bench.step()[sequence] == (PROMPT_LOGPROB_ROWS, 0)


def test_prompt_logprobs_need_every_row_of_the_prompt() -> None:
    bench = Bench(max_rows=256)
    first = bench.add(40, seed=1)
    bench.step()
    bench.finish(first)
    sequence = bench.add(40, seed=1)
    sequence.wants_prompt_logprobs = True
    assert bench.step()[sequence] == (40, 0)


def test_a_lookup_is_counted_once_a_sequence() -> None:
    bench = Bench(num_blocks=8)
    bench.add(60), bench.add(40)
    while bench.scheduler.num_preemptions == 0:
        bench.step()
    assert bench.cache.queries == 100


@pytest.mark.parametrize("max_running", [1, 3])
def test_no_more_than_max_running_sequences_share_a_step(max_running: int) -> None:
    bench = Bench(max_running=max_running)
    for _ in range(5):
        bench.add(5)
    assert len(bench.step()) == max_running
