"""Random loads, replacements, unloads, changed files and requests, with few slots and slow files.

After every step: slots, names, copies and counts agree (``check_integrity``), and the fake backend finds the weights of
every row in its slot. At the end: every request ended, with the text of the version that it was given, or with the
reason why there is none; and nothing is left of what was unloaded.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from fake_adapters import AtOnce, WhenTold, engine_with_adapters, read_fake, write_adapter
from fake_drafters import SometimesDrafter
from fake_model import Outcome, collect, make_request, prompt_of, reference_output
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from paceline.engine.messages import Request
from paceline.errors import AdapterError, InvalidRequestError

CONTEXT = 96
NAMES = "abcde"
QUICK = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class AdapterMachine(RuleBasedStateMachine):
    """Drives one engine; knows the weights of every version."""

    @initialize(
        slots=st.integers(1, 3),
        cache_bytes=st.sampled_from([0, 100, 250, 10_000]),
        kv_blocks=st.integers(6, 20),
        max_running=st.integers(1, 6),
        max_rows=st.integers(2, 40),
        slow=st.booleans(),
        drafts=st.booleans(),
    )
    def start(self, slots, cache_bytes, kv_blocks, max_running, max_rows, slow, drafts) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.executor = WhenTold() if slow else AtOnce()
        self.engine, self.backend = engine_with_adapters(
            slots,
            context=CONTEXT,
            drafter=SometimesDrafter(self.answers, 3, 0.3) if drafts else None,
            executor=self.executor,
            adapter_cache_bytes=cache_bytes,
            kv_blocks=kv_blocks,
            max_running=min(max_running, max_rows),
            max_rows=max_rows,
        )
        self.engine.adapters.registry.wait = lambda timeout_s: None
        self.slots = slots
        self.serial = itertools.count(1)
        self.salts: dict[str, int] = {}  # by key of the version
        self.requests: dict[str, tuple[Request, str | None]] = {}  # with the key of the version
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self.aborted: set[str] = set()

    @rule(name=st.sampled_from(NAMES), replace=st.booleans(), broken=st.sampled_from(["", "", "", "bad"]))
    def load(self, name, replace, broken) -> None:
        number = next(self.serial)
        folder = write_adapter(Path(self.folder.name) / f"{name}{number}", number, broken)
        registry = self.engine.adapters.registry
        busy, taken = name in registry._pending, name in registry.names
        try:
            self.engine.load_adapter(name, str(folder), replace=replace)
        except AdapterError:
            assert busy or (taken and not replace)
            return
        assert not busy and (replace or not taken)
        self.salts[registry._pending[name].key] = number

    @rule(name=st.sampled_from(NAMES))
    def unload(self, name) -> None:
        registry = self.engine.adapters.registry
        possible = name in registry.names and name not in registry._pending
        try:
            self.engine.unload_adapter(name)
        except AdapterError:
            assert not possible
        else:
            assert possible and name not in registry.names
        self.engine.check_integrity()

    @rule(name=st.sampled_from(NAMES))
    def change_files(self, name) -> None:
        """Behind the engine's back."""
        if name in self.engine.adapters.registry.names:
            write_adapter(self.engine.adapters.registry.get(name).folder, 500 + next(self.serial))

    @rule(
        name=st.sampled_from([None, *NAMES, *NAMES]),
        length=st.integers(1, 40),
        shared=st.integers(0, 1),
        tokens=st.integers(1, 30),
        n=st.sampled_from([1, 1, 2]),
        batch=st.booleans(),
    )
    def arrive(self, name, length, shared, tokens, n, batch) -> None:
        number = next(self.serial)
        request = make_request(
            f"r{number}", prompt_of(length, shared), n=n, max_tokens=tokens, seed=number, adapter=name, ignore_eos=True,
            latency_class="batch" if batch else "interactive", temperature=float(n > 1),
        )  # fmt: skip
        registry = self.engine.adapters.registry
        version = registry.get(name) if name in registry.names else None
        salt = None if version is None else self.salts[version.key]
        for index in range(n):
            self.answers[request.request_id, index] = reference_output(self.engine.spec, request, index, CONTEXT, salt)
        try:
            self.engine.add(request)
        except InvalidRequestError:
            assert name is not None and version is None
            return
        assert name is None or version is not None
        self.requests[request.request_id] = request, None if version is None else version.key

    @rule(which=st.integers(0, 60))
    def cancel(self, which) -> None:
        if self.requests:
            request_id = sorted(self.requests)[which % len(self.requests)]
            self.aborted.add(request_id)
            self.engine.abort(request_id)
            self.engine.check_integrity()

    @precondition(lambda self: isinstance(self.executor, WhenTold))
    @rule(count=st.integers(1, 3))
    def read(self, count) -> None:
        self.executor.read(count)

    @rule(count=st.integers(1, 5))
    def steps(self, count) -> None:
        for _ in range(count):
            self.step()

    def step(self) -> None:
        collect(self.outcomes, self.engine.step().deltas)
        self.engine.check_integrity()
        for adapter in self.engine.adapters.registry.slots.occupants:
            if adapter is not None and adapter.resident:
                assert self.backend.salts[adapter.slot] == self.salts[adapter.key]

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        limit = 50 + 40 * sum(len(answer) + 50 for answer in self.answers.values())
        while self.engine.has_work():
            if isinstance(self.executor, WhenTold):
                self.executor.read(2)
            self.step()
            limit -= 1
            assert limit > 0, "requests do not end"
        assert {key[0] for key in self.outcomes} == set(self.requests)
        for (request_id, index), outcome in self.outcomes.items():
            answer = self.answers[request_id, index]
            if outcome.finish_reason == "error":
                assert self.requests[request_id][1] is not None
                assert "cannot be used" in outcome.deltas[-1].error
            if outcome.finish_reason in ("error", "abort"):
                assert outcome.finish_reason == "error" or request_id in self.aborted
                assert outcome.token_ids == answer[: len(outcome.token_ids)]
            else:
                assert outcome.token_ids == answer
        assert max(self.backend.adapters_seen, default=0) <= self.slots
        for name in self.engine.adapters.registry.names:
            self.engine.unload_adapter(name)
        assert self.backend.salts == {} and self.engine.adapters.registry.cached_bytes == 0
        assert all(entry.running == entry.waiting == 0 for entry in self.engine.stats().adapters)
        self.folder.cleanup()


TestAdapters = AdapterMachine.TestCase
TestAdapters.settings = QUICK


@settings(QUICK, max_examples=30)
@given(
    slots=st.integers(1, 3),
    streams=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    kv_blocks=st.integers(8, 16),
    slow=st.booleans(),
    cache_bytes=st.sampled_from([0, 10_000]),
)
def test_no_stream_of_other_adapters_starves_a_request(slots, streams, kv_blocks, slow, cache_bytes) -> None:
    """Every other adapter always has requests that wait and requests that run; one request of ``a`` comes late."""
    executor = WhenTold() if slow else AtOnce()
    engine, _ = engine_with_adapters(
        slots, (0,), CONTEXT, executor=executor, kv_blocks=kv_blocks, max_running=4, max_rows=20,
        adapter_cache_bytes=cache_bytes,
    )  # fmt: skip
    engine.adapters.registry.wait = lambda timeout_s: None
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate("abcdef"):
            engine.load_adapter(name, str(write_adapter(Path(folder) / name, i)))
            if slow:
                executor.read()
        engine.step()
        serial = itertools.count()

        def refill() -> None:
            for name, tokens in zip("bcdef", streams, strict=False):
                waiting = sum(one.request.adapter == name for one in engine.scheduler.waiting)
                for _ in range(2 - waiting):
                    number = next(serial)
                    engine.add(
                        make_request(str(number), prompt_of(5), max_tokens=tokens, adapter=name, ignore_eos=True)
                    )

        for _ in range(5):
            refill()
            engine.step()
        before = len(list(engine.live))
        engine.add(make_request("patient", prompt_of(20), max_tokens=6, adapter="a", ignore_eos=True))
        for _ in range(60 + 20 * before):
            refill()
            if slow:
                executor.read()
            if any(delta.request_id == "patient" and delta.finish_reason for delta in engine.step().deltas):
                return
    raise AssertionError("starved")


def test_fake_weights_are_what_the_folder_says(tmp_path) -> None:
    assert read_fake(write_adapter(tmp_path / "a", 42)).parts == {(0, "q"): 42}
