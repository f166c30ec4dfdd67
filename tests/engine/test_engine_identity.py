"""The text of a request depends on the request alone: not on chunks, company, preemption, caches or drafts."""

from __future__ import annotations

import pytest
from fake_drafters import Answers, LeadingTreeDrafter, ScriptedDrafter, SometimesDrafter, TreeDrafter
from fake_model import drain, fake_spec, make_engine, make_request, prompt_of, reference_output, serve

from paceline.engine.messages import Request

WINDOWS = [(0,), (20,), (0, 33)]


def requests() -> list[Request]:
    """Short and long, greedy and sampled, with penalties, several outputs, and shared prefixes."""
    shared = prompt_of(45, 99)
    growing = [make_request(f"grow{i}", prompt_of(9, 10 + i), max_tokens=70, ignore_eos=True) for i in range(3)]
    return [
        *growing,
        make_request("greedy", prompt_of(37, 1), max_tokens=40),
        make_request("sampled", prompt_of(90, 2), max_tokens=30, temperature=1.0, seed=5, ignore_eos=True),
        make_request("three", shared + prompt_of(9, 3), n=3, max_tokens=30, temperature=0.8, top_p=0.9, seed=6),
        make_request("penalised", shared + prompt_of(4, 4), max_tokens=40, frequency_penalty=0.5, ignore_eos=True),
        make_request("one", [3], max_tokens=20, temperature=1.5, seed=2**63 + 5, min_tokens=8),
        make_request("batch", shared, max_tokens=25, latency_class="batch", ignore_eos=True),
    ]


def answers(windows: tuple[int, ...]) -> Answers:
    spec = fake_spec(windows)
    return {
        (request.request_id, index): reference_output(spec, request, index)
        for request in requests()
        for index in range(request.params.n)
    }


@pytest.fixture(scope="module", params=WINDOWS, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[tuple[int, ...], Answers]:
    return request.param, answers(request.param)


DRAFTERS = {
    "none": lambda known: None,
    "right": lambda known: ScriptedDrafter(known),
    "garbage": lambda known: ScriptedDrafter(known, error_rate=1.0),
    "mixed": lambda known: SometimesDrafter(known, error_rate=0.3),
    "trees": lambda known: TreeDrafter(known, length=3),
}


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize(
    "options",
    [{}, {"max_rows": 5}, {"max_rows": 17, "kv_blocks": 10}, {"max_running": 2}, {"prefix_cache": False}],
    ids=lambda options: ",".join(f"{name}={value}" for name, value in options.items()) or "default",
)
def test_text_does_not_depend_on_how_it_is_computed(case, options: dict, drafter: str) -> None:
    windows, known = case
    engine, _ = make_engine(windows, drafter=DRAFTERS[drafter](known), **options)
    outcomes = serve(engine, *requests())
    assert {key: outcome.token_ids for key, outcome in outcomes.items()} == known
    assert engine.stats().kv_blocks_used == 0
    if "kv_blocks" in options and 0 in windows and drafter != "trees":  # trees hold blocks that others would take
        assert engine.stats().preemptions > 0
    if drafter == "right":
        assert engine.stats().accepted_tokens == engine.stats().draft_tokens > 0


def test_text_does_not_depend_on_what_the_prefix_cache_holds(case) -> None:
    windows, known = case
    engine, _ = make_engine(windows)
    for _ in range(2):
        outcomes = serve(engine, *requests())
        assert {key: outcome.token_ids for key, outcome in outcomes.items()} == known
    assert engine.stats().prefix_cache_hits > 0.4 * engine.stats().prefix_cache_queries


def test_text_does_not_depend_on_when_others_come_and_go(case) -> None:
    windows, known = case
    engine, _ = make_engine(windows, max_rows=24, kv_blocks=14)
    mine = requests()[4]
    for index in range(6):
        engine.add(make_request(f"noise{index}", prompt_of(10 + 9 * index, 50 + index), priority=index % 3 - 1))
        for _ in range(index):
            engine.step()
    engine.add(mine)
    outcomes = {}
    for index in range(6):
        engine.abort(f"noise{index}")
        engine.add(make_request(f"later{index}", mine.prompt_ids[: 15 * index + 1], max_tokens=9, priority=-1))
        for delta in [delta for _ in range(3) for delta in engine.step().deltas]:
            outcomes.setdefault(delta.request_id, []).extend(delta.token_ids)
    for (request_id, _), outcome in drain(engine).items():
        outcomes.setdefault(request_id, []).extend(outcome.token_ids)
    assert outcomes["sampled"] == known["sampled", 0]


@pytest.mark.parametrize("windows", WINDOWS, ids=str)
def test_a_tree_whose_path_is_not_its_first_tokens_is_not_computed_again(windows: tuple[int, ...]) -> None:
    """Keys of such a path are moved to where the text goes: every step computes one known token."""
    request = make_request("r", prompt_of(20), max_tokens=60, ignore_eos=True)
    known = {("r", 0): reference_output(fake_spec(windows), request)}
    engine, backend = make_engine(windows, drafter=TreeDrafter(known, length=3))
    assert serve(engine, request)["r", 0].token_ids == known["r", 0]
    stats = engine.stats()
    assert stats.accepted_tokens > 40 and backend.num_moves > 20
    assert stats.rows - stats.draft_tokens == 20 + stats.steps - 1


def test_nothing_is_moved_for_chains_and_leading_paths() -> None:
    request = make_request("r", prompt_of(20), max_tokens=60, ignore_eos=True)
    known = {("r", 0): reference_output(fake_spec(), request)}
    for drafter in (ScriptedDrafter(known, error_rate=0.2), LeadingTreeDrafter(known)):
        engine, backend = make_engine(drafter=drafter)
        assert serve(engine, request)["r", 0].token_ids == known["r", 0]
        assert engine.stats().accepted_tokens > 10 and backend.num_moves == 0


def test_blocks_of_moved_paths_are_right_for_those_who_find_them() -> None:
    """A second request reads, through the prefix cache, the keys that the first one moved."""
    first = make_request("first", prompt_of(20), max_tokens=60, ignore_eos=True)
    answer = reference_output(fake_spec(), first)
    engine, backend = make_engine(drafter=TreeDrafter({("first", 0): answer}, length=3))
    serve(engine, first)
    assert backend.num_moves > 20
    second = make_request("second", [*first.prompt_ids, *answer[:50]], max_tokens=15, ignore_eos=True)
    assert serve(engine, second)["second", 0].token_ids == reference_output(fake_spec(), second)
    assert engine.stats().prefix_cache_hits >= 64
