"""Random arrivals, cancels, priorities, drafts and step limits against tiny caches.

After every step: no block is lost or shared wrongly (``check_integrity``, and the fake program's own checks: no slot
written twice, no shared block written, the budget of rows respected). At the end: every request ended, and every text
is the one that the simplest loop gives.
"""

from __future__ import annotations

from fake_drafters import ScriptedDrafter, SometimesDrafter, TreeDrafter
from fake_model import Outcome, collect, fake_spec, make_engine, make_request, prompt_of, reference_output
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import structs

from paceline.engine.messages import Request
from paceline.engine.sequence import State

CONTEXT = 96
QUICK = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class EngineMachine(RuleBasedStateMachine):
    """Drives one engine; knows what every request must give."""

    @initialize(
        windows=st.sampled_from([(0,), (20,), (0, 12), (0, 40)]),
        kv_blocks=st.integers(4, 14),
        max_rows=st.integers(1, 60),
        max_running=st.integers(1, 8),
        prefix_cache=st.sampled_from([True, True, False]),
        drafter=st.sampled_from([None, ScriptedDrafter, SometimesDrafter, TreeDrafter]),
        error_rate=st.sampled_from([0.0, 0.4, 1.0]),
    )
    def start(self, windows, kv_blocks, max_rows, max_running, prefix_cache, drafter, error_rate) -> None:
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.continued: dict[tuple[str, int], list[int]] = {}  # beyond where they stop: drafts do not know the end
        self.engine, self.backend = make_engine(
            windows,
            CONTEXT,
            None if drafter is None else drafter(self.continued, 3, error_rate),
            kv_blocks=kv_blocks,
            max_rows=max_rows,
            max_running=min(max_running, max_rows),
            prefix_cache=prefix_cache,
        )
        self.spec = fake_spec(windows, CONTEXT)
        self.requests: dict[str, Request] = {}
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self.arrivals = 0

    @rule(
        length=st.integers(1, 60),
        shared=st.integers(0, 2),
        outputs=st.integers(1, 60),
        endless=st.sampled_from([True, True, False]),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        priority=st.integers(-1, 1),
        batch=st.booleans(),
        sampled=st.booleans(),
        scored=st.sampled_from([False, False, True]),
    )
    def arrive(self, length, shared, outputs, endless, n, priority, batch, sampled, scored) -> None:
        self.arrivals += 1
        outputs = min(outputs, self.engine.context_length - length)
        request = make_request(
            f"r{self.arrivals}",
            prompt_of(length, shared),  # prompts of one ``shared`` value are prefixes of each other
            n=n,
            max_tokens=outputs,
            priority=priority,
            latency_class="batch" if batch else "interactive",
            temperature=1.0 if sampled else 0.0,
            seed=self.arrivals,
            ignore_eos=endless,
            prompt_logprobs=0 if scored else None,
        )
        self.requests[request.request_id] = request
        beyond = structs.replace(request, params=structs.replace(request.params, ignore_eos=True))
        for index in range(n):
            key, limit = (request.request_id, index), self.engine.context_length
            self.answers[key] = reference_output(self.spec, request, index, limit)
            self.continued[key] = reference_output(self.spec, beyond, index, limit)
        self.engine.add(request)

    @rule(which=st.integers(0, 60), index=st.sampled_from([None, 0, 1, 2]))
    def cancel(self, which, index) -> None:
        if self.requests:
            self.engine.abort(sorted(self.requests)[which % len(self.requests)], index)
            self.engine.check_integrity()

    @rule(count=st.integers(1, 6))
    def steps(self, count) -> None:
        for _ in range(count):
            self.step()

    @rule()
    def forget_prefixes(self) -> None:
        self.engine.cache.clear_prefix_cache()

    def step(self) -> None:
        """One step, and what it must do: the first running sequence of the best class present moves on."""
        before = [(sequence, sequence.computed) for sequence in self.engine.scheduler.running[:1]]
        waiting = self.engine.scheduler.waiting[:1]
        report = self.engine.step()
        config = self.engine.config
        assert report.step_rows <= config.max_rows + (config.max_draft_rows if self.engine.drafting else 0)
        collect(self.outcomes, report.deltas)
        self.engine.check_integrity()
        for sequence, computed in before:
            overtaken = waiting and waiting[0].order[:2] < sequence.order[:2]
            assert overtaken or sequence.computed > computed or sequence.state is State.FINISHED

    @invariant()
    def consistent(self) -> None:
        if hasattr(self, "engine"):
            stats = self.engine.stats()
            assert stats.running <= self.engine.config.max_running
            assert stats.prefix_cache_hits <= stats.prefix_cache_queries

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        limit = 50 + 40 * sum(len(answer) + 70 for answer in self.answers.values())
        while self.engine.has_work():
            self.step()
            limit -= 1
            assert limit > 0, "requests do not end"
        assert set(self.outcomes) == set(self.answers)
        for key, outcome in self.outcomes.items():
            if outcome.finish_reason == "abort":
                assert outcome.token_ids == self.answers[key][: len(outcome.token_ids)]
            else:
                assert outcome.token_ids == self.answers[key]
        assert self.engine.stats().kv_blocks_used == 0
        event(f"preempted: {self.engine.stats().preemptions > 0}")


TestEngine = EngineMachine.TestCase
TestEngine.settings = QUICK


@settings(QUICK, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=2, max_size=10),
    kv_blocks=st.integers(6, 12),
    max_rows=st.integers(2, 30),
)
def test_within_a_class_and_priority_nobody_overtakes(lengths, kv_blocks, max_rows) -> None:
    engine, _ = make_engine((0,), CONTEXT, kv_blocks=kv_blocks, max_rows=max_rows, max_running=2)
    for index, length in enumerate(lengths):
        request = make_request(str(index), prompt_of(length, index), max_tokens=12, ignore_eos=True)
        request.arrival_time = float(index)
        engine.add(request)
    started: list[int] = []
    while engine.has_work():
        engine.step()
        for sequence in engine.scheduler.running:
            if (index := int(sequence.request.request_id)) not in started:
                started.append(index)
    assert started == sorted(started)


@settings(QUICK, max_examples=30)
@given(stream=st.lists(st.integers(1, 40), min_size=5, max_size=30), kv_blocks=st.integers(6, 12))
def test_a_stream_of_later_requests_starves_nobody(stream, kv_blocks) -> None:
    """One long request among a stream of short ones that always keeps the cache full."""
    engine, _ = make_engine((0,), CONTEXT, kv_blocks=kv_blocks, max_rows=20, max_running=4)
    engine.add(make_request("before", prompt_of(30, 1), max_tokens=30, ignore_eos=True))
    engine.step()
    engine.add(make_request("patient", prompt_of(60, 2), max_tokens=20, ignore_eos=True))
    arrivals = iter(stream * 40)
    for step in range(100):
        if step % 2 == 0:
            later = make_request(str(step), prompt_of(next(arrivals), 3 + step), max_tokens=5, ignore_eos=True)
            engine.add(later)
        if any(delta.request_id == "patient" and delta.finish_reason for delta in engine.step().deltas):
            return
    raise AssertionError("a request of 23 steps behind one of 30 was not served within 100")
