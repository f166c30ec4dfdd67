"""Random arrivals, repeats, cancels and preemptions with the real controller and real drafters on the fake model.

On top of what ``test_engine_properties`` asserts (no block lost, the budget respected, texts right): controller and
drafters know live sequences only, and in the end none.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from fake_model import MACHINE, FakeBackend, FakeModel, fake_spec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from msgspec import structs
from test_engine_properties import CONTEXT, QUICK, EngineMachine

from paceline.engine.config import EngineConfig
from paceline.engine.engine import Engine
from paceline.sampling.speculative import Speculative
from paceline.speculation.controller import Controller
from paceline.speculation.costs import StepCosts
from paceline.speculation.drafters.ngram import NgramDrafter
from paceline.speculation.drafters.suffix import SuffixDrafter
from paceline.speculation.options import SpeculationOptions

#: Remembers few outputs, so that some are forgotten while others still run.
OPTIONS = SpeculationOptions(suffix_max_cached_tokens=200, suffix_max_depth=16, ngram_min=1)

#: Rows for nothing, as dear as on two cores, and so dear that hardly a draft is worth its row; (rows, seconds).
CURVES = {
    "free": [(1, 1e-3), (512, 1e-3)],
    "two cores": [(1, 4.2e-3), (2, 4.5e-3), (4, 5.2e-3), (8, 7.6e-3), (32, 23e-3), (512, 311e-3)],
    "dear": [(1, 1e-3), (512, 500e-3)],
}
WISHES = [None, None, Speculative(max_draft=1), Speculative(drafters=("ngram",)), Speculative(enabled=False)]


class GivenCosts(StepCosts):
    """Steps of the fake model say nothing about any machine."""

    def observe(self, rows: int, seconds: float, beside: float = 0.0) -> None:
        assert beside == 0.0  # nothing was said of contexts
        assert rows > 0 and seconds > 0


class SpeculatingMachine(EngineMachine):
    """``EngineMachine`` whose engine drafts by what it has seen; requests come again, so there is something to see."""

    totals: ClassVar[Counter[str]] = Counter()

    @initialize(
        windows=st.sampled_from([(0,), (20,), (0, 12)]),
        kv_blocks=st.integers(4, 14),
        max_rows=st.integers(1, 60),
        max_running=st.integers(1, 8),
        prefix_cache=st.sampled_from([True, True, False]),
        curve=st.sampled_from(sorted(CURVES)),
    )
    def start(self, windows, kv_blocks, max_rows, max_running, prefix_cache, curve) -> None:
        self.answers, self.continued = {}, {}
        self.requests, self.outcomes, self.arrivals = {}, {}, 0
        self.spec, self.backend = fake_spec(windows, CONTEXT), FakeBackend()
        self.suffix, self.ngram = SuffixDrafter(OPTIONS), NgramDrafter(OPTIONS)
        self.controller = Controller([self.suffix, self.ngram], GivenCosts(CURVES[curve]))
        config = EngineConfig(
            kv_blocks=kv_blocks,
            max_rows=max_rows,
            max_running=min(max_running, max_rows),
            prefix_cache=prefix_cache,
            speculation=OPTIONS,
        )
        self.engine = Engine(FakeModel(self.spec), self.backend, config, controller=self.controller, limits=MACHINE)

    @rule(which=st.integers(0, 60), wish=st.sampled_from(WISHES))
    def arrive_again(self, which, wish) -> None:
        """The same request as an earlier one, whose answer the suffix drafter may know."""
        if not self.requests:
            return
        self.arrivals += 1
        names = sorted(self.requests)
        first = self.requests[names[which % len(names)]]
        params = structs.replace(first.params, speculative=wish)
        request = structs.replace(first, request_id=f"r{self.arrivals}", params=params)
        self.requests[request.request_id] = request
        for index in range(params.n):
            for texts in (self.answers, self.continued):
                texts[request.request_id, index] = texts[first.request_id, index]
        self.engine.add(request)

    @invariant()
    def only_live_sequences_are_known(self) -> None:
        if hasattr(self, "engine"):
            live = {sequence.key for sequence in self.engine.live}
            for known in (self.controller._tracks, self.suffix._known, self.ngram._known):
                assert set(known) <= live
            assert self.suffix._index.num_sequences == len(self.suffix._known)

    def teardown(self) -> None:
        super().teardown()
        if not hasattr(self, "engine"):
            return
        assert not self.controller._tracks and not self.ngram._known
        assert not self.suffix._known and not self.suffix._siblings and self.suffix._index.num_sequences == 0
        assert self.suffix.num_cached_tokens <= OPTIONS.suffix_max_cached_tokens
        stats = self.engine.stats()
        self.totals["accepted"] += stats.accepted_tokens
        self.totals["refused"] += stats.draft_tokens - stats.accepted_tokens
        self.totals["preempted"] += stats.preemptions if stats.accepted_tokens else 0
        self.totals.update({counters.drafter: counters.drafts for counters in stats.drafters})


def test_nothing_is_lost_or_kept_whatever_comes_and_goes() -> None:
    SpeculatingMachine.totals.clear()
    run_state_machine_as_test(SpeculatingMachine, settings=settings(QUICK, max_examples=25))
    totals = SpeculatingMachine.totals
    least = {"accepted": 200, "refused": 200, "preempted": 10, "suffix": 100, "ngram": 10}
    assert all(totals[what] >= count for what, count in least.items()), totals
