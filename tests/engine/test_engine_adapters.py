"""Adapters in the engine: texts are the adapter's own, slots are shared fairly, loading disturbs nobody."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fake_adapters import CountingReader, WhenTold, engine_with_adapters, load, write_adapter
from fake_drafters import ScriptedDrafter
from fake_model import Outcome, collect, drain, make_engine, make_request, prompt_of, reference_output, serve

from paceline.engine.messages import Request
from paceline.errors import AdapterError, InvalidRequestError
from paceline.kv.cache import root_name

NEVER = {"ignore_eos": True}


@pytest.fixture
def adapters(tmp_path):
    """Folders of the adapters a to f, and their salts."""
    salts = {name: 100 + i for i, name in enumerate("abcdef")}
    return {name: (write_adapter(tmp_path / name, salt), salt) for name, salt in salts.items()}


def request(request_id: str, adapter: str | None = None, length: int = 10, tokens: int = 6, **params) -> Request:
    return make_request(request_id, prompt_of(length, 1), max_tokens=tokens, adapter=adapter, **NEVER, **params)


def expected(engine, made: Request, adapters, index: int = 0) -> list[int]:
    salt = None if made.adapter is None else adapters[made.adapter][1]
    return reference_output(engine.spec, made, index, engine.context_length, salt)


def load_all(engine, adapters, names: str) -> None:
    for name in names:
        assert load(engine, name, adapters[name][0]) is None


def step_until(engine, condition, outcomes=None, limit: int = 500) -> dict[tuple[str, int], Outcome]:
    outcomes = {} if outcomes is None else outcomes
    for _ in range(limit):
        if condition():
            return outcomes
        collect(outcomes, engine.step().deltas)
        engine.check_integrity()
    raise AssertionError("it did not come about")


def test_each_request_gets_the_text_of_its_adapter(adapters) -> None:
    engine, backend = engine_with_adapters(2)
    load_all(engine, adapters, "ab")
    made = [request("base"), request("a", "a"), request("b", "b"), request("two", "a", n=2, temperature=1.0)]
    outcomes = serve(engine, *made)
    for one in made:
        for index in range(one.params.n):
            assert outcomes[one.request_id, index].token_ids == expected(engine, one, adapters, index)
    assert len({tuple(outcomes[name, 0].token_ids) for name in ("base", "a", "b")}) == 3
    assert max(backend.adapters_seen) == 2


def test_a_step_of_the_base_model_alone_has_no_adapters_in_its_batch(adapters) -> None:
    engine, backend = engine_with_adapters(2)
    load_all(engine, adapters, "a")
    serve(engine, request("r"))
    assert backend.adapters_seen == []


def test_batches_name_the_slot_of_each_sequence(adapters) -> None:
    engine, _ = engine_with_adapters(2)
    load_all(engine, adapters, "ab")
    seen: list[np.ndarray] = []
    run = engine.runner.program.run
    engine.runner.program.run = lambda batch: seen.append(batch.adapters.copy()) or run(batch)
    for made in (request("1"), request("2", "b"), request("3", "a")):
        engine.add(made)
    engine.step()
    assert seen[0].dtype == np.int32 and seen[0].tolist() == [-1, 1, 0]


def test_drafts_are_verified_with_the_sequences_adapter(adapters) -> None:
    answers: dict[tuple[str, int], list[int]] = {}
    engine, _ = engine_with_adapters(2, drafter=ScriptedDrafter(answers, 4))
    load_all(engine, adapters, "ab")
    made = [request(name or "base", name, tokens=20) for name in (None, "a", "b")]
    for one in made:
        answers[one.request_id, 0] = expected(engine, one, adapters)
    outcomes = serve(engine, *made)
    assert [outcomes[one.request_id, 0].token_ids for one in made] == list(answers.values())
    stats = engine.stats()
    assert stats.accepted_tokens > 40
    assert sorted(entry.adapter for entry in stats.drafters) == ["", "a", "b"]  # names, not versions


class TestPrefixes:
    def test_are_shared_within_an_adapter_only(self, adapters) -> None:
        engine, _ = engine_with_adapters(2)
        load_all(engine, adapters, "ab")
        hits = []
        for i, name in enumerate(("a", "b", None, "a")):
            outcomes = serve(engine, request(str(i), name, length=40))
            hits.append(outcomes[str(i), 0].deltas[0].num_cached_tokens)
        assert hits == [0, 0, 0, 32]

    def test_of_a_version_are_never_found_by_the_next(self, adapters) -> None:
        engine, _ = engine_with_adapters(2)
        load_all(engine, adapters, "a")
        first = serve(engine, request("1", "a", length=40))
        folder, _ = adapters["a"]
        adapters["a"] = (write_adapter(folder, 555), 555)
        assert load(engine, "a", folder, replace=True) is None
        second = request("2", "a", length=40)
        outcomes = serve(engine, second)
        assert outcomes["2", 0].deltas[0].num_cached_tokens == 0
        assert outcomes["2", 0].token_ids == expected(engine, second, adapters) != first["1", 0].token_ids

    def test_a_name_cannot_be_made_to_look_like_another_version(self, adapters) -> None:
        """Keys are name@version; a name may contain the sign itself."""
        engine, _ = engine_with_adapters(4)
        assert load(engine, "a", adapters["a"][0]) is None
        assert load(engine, "a@1", adapters["b"][0]) is None
        assert load(engine, "a@1@2", adapters["c"][0]) is None
        keys = {engine.adapters.registry.get(name).key for name in ("a", "a@1", "a@1@2")}
        assert len({root_name(key) for key in keys}) == 3


class TestRefusals:
    def test_an_unknown_adapter_is_refused_with_those_that_are_there(self, adapters) -> None:
        engine, _ = engine_with_adapters(2)
        load_all(engine, adapters, "ab")
        with pytest.raises(InvalidRequestError, match="no adapter 'x'; there are 'a', 'b'") as caught:
            engine.add(request("r", "x"))
        assert caught.value.param == "adapter" and not engine.has_work()

    def test_an_engine_without_adapters_says_so(self, adapters) -> None:
        engine, _ = make_engine()
        with pytest.raises(AdapterError, match="cannot use adapters"):
            engine.load_adapter("a", str(adapters["a"][0]))
        with pytest.raises(InvalidRequestError, match="none is loaded"):
            engine.add(request("r", "a"))

    @pytest.mark.parametrize("name", ["", " a", "a\n", "x" * 129])
    def test_names_that_cannot_be_told_are_refused(self, name, adapters) -> None:
        engine, _ = engine_with_adapters(2)
        with pytest.raises(AdapterError, match="printable characters"):
            engine.load_adapter(name, str(adapters["a"][0]))

    def test_a_name_is_taken_once(self, adapters) -> None:
        engine, _ = engine_with_adapters(2)
        load_all(engine, adapters, "a")
        with pytest.raises(AdapterError, match="'a' already"):
            engine.load_adapter("a", str(adapters["b"][0]))

    def test_a_folder_without_an_adapter_is_refused(self, adapters, tmp_path) -> None:
        engine, _ = engine_with_adapters(2)
        with pytest.raises(AdapterError, match="no adapter at"):
            engine.load_adapter("x", str(tmp_path / "nowhere"))
        (tmp_path / "empty").mkdir()
        with pytest.raises(AdapterError, match=r"has no adapter_config\.json"):
            engine.load_adapter("x", str(tmp_path / "empty"))
        assert engine.adapters.infos() == [] and not engine.has_work()

    def test_more_adapters_at_once_than_the_backend_can_is_refused(self) -> None:
        with pytest.raises(InvalidRequestError, match="max_adapters is 3, but the backend fake runs at most 2"):
            engine_with_adapters(2, max_adapters=3)


class TestBadAdapters:
    def test_one_is_refused_with_its_reason_and_running_requests_go_on(self, adapters, tmp_path) -> None:
        engine, _ = engine_with_adapters(2)
        load_all(engine, adapters, "a")
        running = [request("base", tokens=20), request("a", "a", tokens=20)]
        for one in running:
            engine.add(one)
        engine.step()
        bad = write_adapter(tmp_path / "bad", 1, broken="rank 4 of layer 0 does not fit")
        engine.load_adapter("bad", str(bad))
        report = engine.step()
        (reply,) = report.replies
        assert "'bad' cannot be used: rank 4 of layer 0" in reply.error and reply.info is None
        with pytest.raises(InvalidRequestError, match="no adapter 'bad'"):
            engine.add(request("r", "bad"))
        drain(engine)
        assert [len(serve(engine, one)[one.request_id, 0].token_ids) for one in (request("again", "a"),)] == [6]

    def test_requests_that_came_before_it_was_read_end_with_the_reason(self, adapters, tmp_path) -> None:
        executor = WhenTold()
        engine, _ = engine_with_adapters(2, executor=executor)
        engine.load_adapter("bad", str(write_adapter(tmp_path / "bad", 1, broken="NaN in q_proj")))
        engine.add(request("r", "bad", n=2))
        engine.add(request("base"))
        outcomes: dict[tuple[str, int], Outcome] = {}
        collect(outcomes, engine.step().deltas)
        executor.read()
        outcomes.update(step_until(engine, lambda: not engine.has_work(), outcomes))
        for index in range(2):
            assert outcomes["r", index].finish_reason == "error"
            assert "NaN in q_proj" in outcomes["r", index].deltas[-1].error
        assert outcomes["base", 0].finish_reason == "length"

    def test_a_bad_replacement_leaves_the_old_version_in_place(self, adapters, tmp_path) -> None:
        engine, _ = engine_with_adapters(2)
        load_all(engine, adapters, "a")
        bad = write_adapter(tmp_path / "bad", 1, broken="wrong shapes")
        assert "wrong shapes" in load(engine, "a", bad, replace=True)
        made = request("r", "a")
        assert serve(engine, made)["r", 0].token_ids == expected(engine, made, adapters)

    def test_what_the_backend_refuses_is_told_like_what_the_reader_refuses(self, adapters, monkeypatch) -> None:
        engine, backend = engine_with_adapters(2)
        monkeypatch.setattr(type(backend), "load_adapter", lambda self, index, parts: 1 / 0)
        assert "ZeroDivisionError" in load(engine, "a", adapters["a"][0])
        monkeypatch.undo()
        assert load(engine, "a", adapters["a"][0]) is None
        engine.check_integrity()

    def test_files_that_changed_are_not_taken_for_those_that_were_loaded(self, adapters) -> None:
        """Without a copy in memory they must be read again; the prefix cache knows the old ones."""
        engine, _ = engine_with_adapters(1, adapter_cache_bytes=0)
        load_all(engine, adapters, "ab")
        serve(engine, request("1", "a"), request("2", "b"))  # a is now nowhere but in its folder
        write_adapter(adapters["a"][0], 556)
        outcome = serve(engine, request("3", "a"))["3", 0]
        assert outcome.finish_reason == "error"
        assert "have changed since they were loaded" in outcome.deltas[-1].error
        assert load(engine, "a", adapters["a"][0], replace=True) is None
        assert serve(engine, request("4", "a"))["4", 0].finish_reason == "length"


class TestUnloading:
    def test_an_adapter_in_use_goes_with_its_last_sequence(self, adapters) -> None:
        engine, backend = engine_with_adapters(2, drafter=ScriptedDrafter({}))
        load_all(engine, adapters, "a")
        made = request("r", "a", tokens=12)
        engine.add(made)
        engine.step()
        key = engine.adapters.registry.get("a").key
        engine.unload_adapter("a")
        assert engine.adapters.infos() == []
        with pytest.raises(InvalidRequestError, match="no adapter 'a'"):
            engine.add(request("late", "a"))
        assert backend.salts  # still there for the one that runs
        outcomes = drain(engine)
        assert len(outcomes["r", 0].token_ids) >= 11 and backend.salts == {}
        engine.add(request("base"))
        drain(engine)
        assert engine.drafting.controller.forgotten_adapters == [key]

    def test_an_unused_one_goes_at_once(self, adapters) -> None:
        engine, backend = engine_with_adapters(2)
        load_all(engine, adapters, "a")
        engine.unload_adapter("a")
        assert backend.salts == {} and engine.adapters.registry.cached_bytes == 0
        with pytest.raises(AdapterError, match="no adapter 'a'"):
            engine.unload_adapter("a")

    def test_waiting_sequences_of_an_unloaded_adapter_are_still_served(self, adapters) -> None:
        engine, _ = engine_with_adapters(1)
        load_all(engine, adapters, "ab")
        made = [request("a", "a", tokens=8), request("b", "b", tokens=8)]
        for one in made:
            engine.add(one)
        engine.step()
        engine.unload_adapter("b")
        outcomes = step_until(engine, lambda: not engine.has_work())
        assert outcomes["b", 0].token_ids == expected(engine, made[1], adapters)

    def test_replacing_lets_running_sequences_finish_with_the_old_weights(self, adapters, tmp_path) -> None:
        engine, _ = engine_with_adapters(2)
        load_all(engine, adapters, "a")
        old = request("old", "a", tokens=10)
        engine.add(old)
        outcomes: dict[tuple[str, int], Outcome] = {}
        collect(outcomes, engine.step().deltas)
        new_folder = write_adapter(tmp_path / "new", 777)
        engine.load_adapter("a", str(new_folder), replace=True)
        collect(outcomes, engine.step().deltas)
        new = request("new", "a", tokens=10)
        engine.add(new)
        step_until(engine, lambda: not engine.has_work(), outcomes)
        assert outcomes["old", 0].token_ids == expected(engine, old, adapters)
        assert outcomes["new", 0].token_ids == expected(engine, new, {"a": (None, 777)})


class TestSlots:
    def test_more_adapters_than_slots_take_turns_and_all_texts_are_right(self, adapters) -> None:
        reader = CountingReader()
        engine, backend = engine_with_adapters(2, reader=reader)
        load_all(engine, adapters, "abcdef")
        made = [request(f"{name}{i}", name, tokens=5) for i in range(3) for name in "abcdef"]
        outcomes = serve(engine, *made)
        for one in made:
            assert outcomes[one.request_id, 0].token_ids == expected(engine, one, adapters)
        assert max(backend.adapters_seen) == 2
        assert sorted(reader.folders) == list("abcdef")  # from then on, host memory has them
        assert sum(entry.evictions for entry in engine.stats().adapters) >= 4

    def test_what_host_memory_does_not_hold_is_read_again(self, adapters) -> None:
        reader = CountingReader()
        engine, _ = engine_with_adapters(1, reader=reader, adapter_cache_bytes=250)
        load_all(engine, adapters, "abcd")
        assert engine.adapters.registry.cached_bytes == 200
        for name in "dacb":
            serve(engine, request(name, name))
            assert engine.adapters.registry.cached_bytes <= 250
        assert reader.folders == ["a", "b", "c", "d", "a", "c", "b"]

    def test_the_least_recently_used_makes_room(self, adapters) -> None:
        engine, _ = engine_with_adapters(2)
        load_all(engine, adapters, "abc")
        serve(engine, request("1", "a"))
        serve(engine, request("2", "b"))
        serve(engine, request("3", "a"))
        serve(engine, request("4", "c"))
        in_slots = [adapter.name for adapter in engine.adapters.registry if adapter.resident]
        assert in_slots == ["a", "c"]

    def test_a_request_without_a_slot_holds_up_nobody_else(self, adapters) -> None:
        engine, _ = engine_with_adapters(1)
        load_all(engine, adapters, "ab")
        engine.add(request("long", "a", tokens=60))
        engine.step()
        engine.add(request("waits", "b"))
        engine.add(request("base", tokens=3))
        outcomes = step_until(engine, lambda: "base" not in engine.live)
        assert outcomes["base", 0].finish_reason == "length"
        assert "long" in engine.live and "waits" in engine.live
        drain(engine)

    def test_a_stream_of_another_adapter_starves_nobody(self, adapters) -> None:
        """There is always a request of ``a`` that waits, and one that runs; ``b`` waits for its slot."""
        engine, _ = engine_with_adapters(1, max_running=2)
        load_all(engine, adapters, "ab")
        for i in range(3):
            engine.add(request(f"early{i}", "a", tokens=8))
        engine.step()
        engine.add(request("patient", "b", tokens=5))
        for i in range(60):
            engine.add(request(f"late{i}", "a", tokens=5 + i % 4))
            report = engine.step()
            if any(delta.request_id == "patient" and delta.finish_reason for delta in report.deltas):
                assert i < 40
                return
        raise AssertionError("starved")

    def test_each_of_many_adapters_is_served_while_all_have_streams(self, adapters) -> None:
        engine, _ = engine_with_adapters(2, max_running=4)
        load_all(engine, adapters, "abcdef")
        ended: dict[str, int] = dict.fromkeys("abcdef", 0)
        for i in range(300):
            for name in "abcdef" if i % 8 == 0 else ():
                engine.add(request(f"{name}-{i}", name, tokens=4))
            for delta in engine.step().deltas:
                ended[delta.request_id[0]] += delta.finish_reason is not None
        assert min(ended.values()) >= 0.8 * max(ended.values())

    def test_a_better_class_does_not_wait_for_a_slot_of_a_worse_one(self, adapters) -> None:
        engine, _ = engine_with_adapters(1)
        load_all(engine, adapters, "ab")
        slow = request("slow", "a", tokens=50, latency_class="batch")
        engine.add(slow)
        outcomes: dict[tuple[str, int], Outcome] = {}
        for _ in range(3):
            collect(outcomes, engine.step().deltas)
        engine.add(request("quick", "b", tokens=3))
        step_until(engine, lambda: "quick" not in engine.live, outcomes, limit=5)
        step_until(engine, lambda: not engine.has_work(), outcomes)
        assert outcomes["slow", 0].token_ids == expected(engine, slow, adapters)
        assert engine.stats().preemptions == 1

    def test_an_aborted_waiter_gives_up_its_reservation(self, adapters) -> None:
        engine, _ = engine_with_adapters(1)
        load_all(engine, adapters, "ab")
        engine.add(request("long", "a", tokens=100))
        engine.step()
        engine.add(request("waits", "b"))
        engine.step()
        engine.add(request("behind", "a", tokens=3))
        engine.step()
        assert [one.request.request_id for one in engine.scheduler.running] == ["long"]
        engine.abort("waits")
        engine.step()
        assert [one.request.request_id for one in engine.scheduler.running] == ["long", "behind"]


class TestReading:
    def test_steps_go_on_while_files_are_read_and_the_request_then_starts(self, adapters) -> None:
        executor = WhenTold()
        engine, _ = engine_with_adapters(1, executor=executor)
        engine.load_adapter("a", str(adapters["a"][0]))
        made = request("a", "a")
        engine.add(made)
        engine.add(request("base", tokens=40))
        outcomes: dict[tuple[str, int], Outcome] = {}
        for _ in range(5):
            collect(outcomes, engine.step().deltas)
        assert len(outcomes["base", 0].token_ids) == 5 and ("a", 0) not in outcomes
        executor.read()
        step_until(engine, lambda: not engine.has_work(), outcomes)
        assert outcomes["a", 0].token_ids == expected(engine, made, adapters)

    def test_a_step_without_any_other_work_waits_for_the_files(self, adapters) -> None:
        """With the engine's own thread for reading."""
        reader = CountingReader()
        engine, _ = engine_with_adapters(1, reader=reader)
        engine.adapters.registry.executor = None
        engine.load_adapter("a", str(adapters["a"][0]))
        made = request("a", "a")
        engine.add(made)
        assert drain(engine)["a", 0].token_ids == expected(engine, made, adapters)
        assert reader.threads and threading.get_ident() not in reader.threads

    def test_a_name_is_busy_while_it_is_read(self, adapters) -> None:
        executor = WhenTold()
        engine, _ = engine_with_adapters(1, executor=executor)
        engine.load_adapter("a", str(adapters["a"][0]))
        for again in (
            lambda: engine.load_adapter("a", str(adapters["a"][0]), replace=True),
            lambda: engine.unload_adapter("a"),
        ):
            with pytest.raises(AdapterError, match="is being loaded"):
                again()
        executor.read()
        assert engine.step().replies[0].error is None
        engine.unload_adapter("a")

    def test_aborting_the_request_that_asked_for_files_is_harmless(self, adapters) -> None:
        executor = WhenTold()
        engine, _ = engine_with_adapters(1, executor=executor, adapter_cache_bytes=0)
        for name in "ab":
            engine.load_adapter(name, str(adapters[name][0]))
            executor.read()
            engine.step()
        engine.add(request("b", "b"))
        engine.step()
        engine.abort("b")
        engine.unload_adapter("b")
        engine.step()
        engine.check_integrity()
        executor.read()
        engine.step()
        engine.check_integrity()
        made = request("a", "a")
        engine.add(made)
        outcomes: dict[tuple[str, int], Outcome] = {}
        collect(outcomes, engine.step().deltas)
        executor.read()
        step_until(engine, lambda: not engine.has_work(), outcomes)
        assert outcomes["a", 0].token_ids == expected(engine, made, adapters)

    def test_files_that_are_known_from_before_are_read_when_they_are_needed(self, adapters) -> None:
        """As after a restart."""
        reader = CountingReader()
        first, _ = engine_with_adapters(1)
        load_all(first, adapters, "ab")
        engine, _ = engine_with_adapters(1, reader=reader)
        for info in first.adapters.infos():
            engine.load_adapter(info.name, info.path, fingerprint=info.fingerprint)
        assert [reply.error for reply in engine.step().replies] == [None, None] and reader.folders == []
        made = request("b", "b")
        assert serve(engine, made)["b", 0].token_ids == expected(engine, made, adapters)
        assert reader.folders == ["b"]
        write_adapter(adapters["a"][0], 999)
        again, _ = engine_with_adapters(1)
        with pytest.raises(AdapterError, match="have changed"):
            again.load_adapter("a", str(adapters["a"][0]), fingerprint=first.adapters.infos()[0].fingerprint)


def test_what_each_adapter_did_is_counted_by_name(adapters, tmp_path) -> None:
    engine, _ = engine_with_adapters(1)
    load_all(engine, adapters, "ab")
    engine.add(request("1", "a", tokens=4, n=2))
    engine.add(request("2", "b", tokens=3))
    engine.step()
    a, b = sorted(engine.stats().adapters, key=lambda entry: entry.adapter)
    assert (a.requests, a.running, a.waiting) == (1, 2, 0)
    assert (b.requests, b.running, b.waiting) == (1, 0, 1)
    drain(engine)
    assert load(engine, "a", write_adapter(tmp_path / "new", 9), replace=True) is None
    serve(engine, request("3", "a", tokens=5))
    assert (a.requests, a.generation_tokens, a.running, a.waiting) == (2, 13, 0, 0)
    assert (b.requests, b.generation_tokens, b.evictions) == (1, 3, 1)
    assert (a.loads, a.evictions) == (3, 1)  # at first, after the eviction, and the new version
    assert a.load_seconds > 0
