"""The drafter that runs a small model: what it proposes, what it computes for that, and what it does without memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from draft_models import Oracle, View, count_rows, make_drafter, tokens_of

from paceline.backends.base import Backend, Batch, StepOutput
from paceline.backends.registry import get_backend
from paceline.errors import PacelineError
from paceline.sampling.params import SamplingParams
from paceline.sampling.sampler import Sampler, SampleRow
from paceline.sampling.state import SamplingState
from paceline.speculation.draft import Draft
from paceline.speculation.drafters import model as model_drafter
from paceline.speculation.drafters.model import LEVEL_ROWS, ModelDrafter

GetFolder = Callable[[str], Path]
SAMPLED = SamplingParams(temperature=0.8, seed=11)


def open_backend(name: str) -> Backend:
    try:
        return get_backend(name)
    except PacelineError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["torch", "cpu"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return open_backend(request.param)


@pytest.fixture
def drafter(backend: Backend, tiny_checkpoint: GetFolder) -> ModelDrafter:
    return make_drafter(tiny_checkpoint("smollm2"), backend)


@pytest.fixture(autouse=True)
def _no_path_is_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models are unsure of everything; the tests want drafts of the length they ask for."""
    monkeypatch.setattr(model_drafter, "HOPELESS", 0.0)


def propose(drafter: ModelDrafter, views: Sequence[View], length: int = 3) -> list[Draft | None]:
    drafts = drafter.propose(views, [length] * len(views))
    drafter.check_integrity()
    return drafts


OPTIONS = [{}, {"max_rows": 24, "catch_up_rows": 9}, {"blocks": 11}, {"max_sequences": 2}]
CASES = [("cpu", variant, options) for variant in ("smollm2", "gemma3_text", "mistral") for options in OPTIONS]


@pytest.mark.parametrize(("name", "variant", "options"), [*CASES, ("torch", "smollm2", {})], ids=str)
def test_a_draft_is_the_models_own_greedy_text_whatever_happened_before(
    name: str, variant: str, options: dict, tiny_checkpoint: GetFolder
) -> None:
    """Sequences of any length come, pause and end; any number of draft tokens is taken, then others follow."""
    backend, folder = open_backend(name), tiny_checkpoint(variant)
    oracle, choose = Oracle(folder, name), random.Random(3)
    drafter = make_drafter(folder, backend, **options)
    views: list[View] = []
    drafted = 0
    for step in range(25):
        if step % 5 == 0:
            views.append(View(f"r{step}", tokens_of(choose.randrange(1, 100), seed=step)))
        present = [view for view in views if choose.random() < 0.8]
        lengths = [choose.randrange(1, 6) for _ in present]
        drafts = drafter.propose(present, lengths)
        drafter.check_integrity()
        for view, draft, length in zip(present, drafts, lengths, strict=True):
            taken: list[int] = []
            if draft is not None:
                assert 1 <= len(draft) <= length
                assert draft.token_ids == oracle.greedy(view.tokens, len(draft)), f"step {step}, {view.request_id}"
                drafted += 1
                taken = list(draft.token_ids[: choose.randrange(len(draft) + 1)])
            view.tokens += [*taken, choose.randrange(3, 150)]
        for view in [view for view in views if view.length > 110 or choose.random() < 0.03]:
            views.remove(view)
            drafter.forget(view)
    assert drafted > 10


def test_a_model_that_drafts_for_itself_is_always_right(drafter: ModelDrafter, tiny_checkpoint: GetFolder,
                                                        backend: Backend) -> None:  # fmt: skip
    oracle = Oracle(tiny_checkpoint("smollm2"), backend.name)
    views = [View(f"r{i}", tokens_of(5 + 12 * i, i)) for i in range(4)]
    for _ in range(4):
        for view, draft in zip(views, propose(drafter, views), strict=True):
            assert draft is not None
            view.tokens += oracle.greedy(view.tokens, 4)
            assert tuple(view.tokens[-4:-1]) == draft.token_ids


def test_only_what_is_new_is_computed(drafter: ModelDrafter) -> None:
    rows = count_rows(drafter)
    view = View("r", tokens_of(20))
    (draft,) = propose(drafter, [view])
    assert rows == [20, 1, 1]
    view.tokens += [*draft.token_ids, 5]  # all accepted: the last draft token was not computed
    (draft,) = propose(drafter, [view])
    assert rows[3:] == [2, 1, 1]
    view.tokens += [draft.token_ids[0], (draft.token_ids[1] + 1) % 150]  # the second was rejected
    (draft,) = propose(drafter, [view])
    assert rows[6:] == [1, 1, 1]
    view.tokens += [(draft.token_ids[0] + 1) % 150, 7, 8, 9]  # none, and others were taken in a step without drafts
    (draft,) = propose(drafter, [view])
    assert rows[9:] == [4, 1, 1]
    view.tokens += [draft.token_ids[0]]  # verified as the sampled token, not as a draft
    propose(drafter, [view], length=1)
    assert rows[12:] == [1]


def test_all_sequences_share_each_pass(drafter: ModelDrafter) -> None:
    rows = count_rows(drafter)
    views = [View(f"r{i}", tokens_of(10 + i, i)) for i in range(3)]
    drafts = drafter.propose(views, [4, 1, 2])
    assert [len(draft) for draft in drafts if draft] == [4, 1, 2]
    assert rows == [33, 2, 1, 1]


def test_a_long_prompt_is_caught_up_with_in_chunks_beside_level_sequences(
    backend: Backend, tiny_checkpoint: GetFolder
) -> None:
    drafter = make_drafter(tiny_checkpoint("smollm2"), backend, catch_up_rows=16)
    rows = count_rows(drafter)
    level, behind = View("level", tokens_of(6)), View("behind", tokens_of(110, 1))
    calls = []
    while not calls or calls[-1][1] is None:
        assert drafter.pending(behind) == 110 - 16 * len(calls)
        calls.append(propose(drafter, [behind, level], length=1)[::-1])
        level.tokens.append(7)
    assert all(first is not None for first, _ in calls)
    assert rows == [6 + 16, *[1 + 16] * 5, 1 + 14], f"a chunk a call until {LEVEL_ROWS} or fewer are left"


def test_sequences_catch_up_one_after_the_other(backend: Backend, tiny_checkpoint: GetFolder) -> None:
    drafter = make_drafter(tiny_checkpoint("smollm2"), backend, catch_up_rows=32)
    views = [View(f"r{i}", tokens_of(100, i)) for i in range(3)]
    calls = [propose(drafter, views) for _ in range(7)]
    done = [[view.request_id for view, draft in zip(views, drafts, strict=True) if draft] for drafts in calls]
    assert done == [[], [], [], ["r0"], ["r0"], ["r0"], ["r0", "r1"]]


def test_sequences_of_one_prompt_share_its_keys(drafter: ModelDrafter) -> None:
    rows = count_rows(drafter)
    prompt = tokens_of(100)
    views = [View("r", [*prompt], index=index, prompt_length=100) for index in range(3)]
    while not all(propose(drafter, views, length=1)):
        pass
    assert sum(rows) < 100 + 3 * 16 + len(rows)
    shared = drafter._cache.cache.pools[0]
    assert max(shared.ref_counts) == 3


def test_a_preempted_sequence_that_comes_back_goes_on_where_it_was(drafter: ModelDrafter) -> None:
    view = View("r", tokens_of(60))
    (before,) = propose(drafter, [view])
    rows = count_rows(drafter)
    drafter.observe([])
    assert propose(drafter, [View("r", [*view.tokens])]) == [before]
    assert rows == [1, 1, 1]


def test_nothing_is_written_to_blocks_that_others_read(drafter: ModelDrafter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a sequence that did not grow, whose last token is computed once more."""
    run, cache = drafter._program.run, drafter._cache.cache
    shared = []

    def check(batch: Batch) -> StepOutput:
        counts = [cache.pools[0].ref_counts[slot // cache.block_size] for slot in batch.slots[0].tolist()]
        shared.append(max(cache.pools[0].ref_counts))
        assert set(counts) == {1}
        return run(batch)

    monkeypatch.setattr(drafter._program, "run", check)
    full, longer = View("full", tokens_of(32)), View("longer", [*tokens_of(32), *tokens_of(9, 1)])
    for views in ([full], [longer], [full], [full, longer]):
        assert all(propose(drafter, views))
    assert max(shared) == 2, "the first block is shared"


def test_the_least_recently_used_sequence_gives_way(backend: Backend, tiny_checkpoint: GetFolder) -> None:
    drafter = make_drafter(tiny_checkpoint("smollm2"), backend, blocks=8)
    old, recent, new = (View(name, tokens_of(44, seed)) for seed, name in enumerate(("old", "recent", "new")))
    for view in (old, recent, old, recent):
        assert propose(drafter, [view])[0]
    assert propose(drafter, [new])[0]
    assert list(drafter._cache.tracks) == [recent.key, new.key]
    rows = count_rows(drafter)
    assert propose(drafter, [recent])[0] and rows[0] == 1
    assert propose(drafter, [old])[0] and sum(rows) > 3 + 3, "it is computed again"


def test_those_who_hold_blocks_keep_them_from_those_who_come_later_in_the_same_call(
    backend: Backend, tiny_checkpoint: GetFolder
) -> None:
    drafter = make_drafter(tiny_checkpoint("smollm2"), backend, blocks=8)
    views = [View(f"r{i}", tokens_of(40, i)) for i in range(4)]
    for _ in range(5):
        assert [draft is not None for draft in propose(drafter, views)] == [True, True, False, False]
        for view in views:
            view.tokens.append(9)
    drafter.forget(views[0])
    assert [draft is not None for draft in propose(drafter, views[1:])] == [True, True, False]


def test_a_sequence_that_grows_takes_blocks_of_later_ones(backend: Backend, tiny_checkpoint: GetFolder) -> None:
    drafter = make_drafter(tiny_checkpoint("smollm2"), backend, blocks=6)
    views = [View("first", tokens_of(47)), View("second", tokens_of(44, 1))]
    assert all(propose(drafter, views, length=1))
    views[0].tokens += tokens_of(3, 2)
    first, second = propose(drafter, views, length=1)
    assert first is not None and second is None


def test_drafts_are_shorter_where_blocks_are_short(backend: Backend, tiny_checkpoint: GetFolder) -> None:
    drafter = make_drafter(tiny_checkpoint("smollm2"), backend, blocks=4)
    views = [View("a", tokens_of(30)), View("b", tokens_of(30, 1))]
    assert [len(draft) for draft in propose(drafter, views, length=6)] == [3, 3], "tokens 31 and 32, and one behind"


def test_a_sequence_that_the_model_cannot_hold_gets_no_draft(backend: Backend, tiny_checkpoint: GetFolder) -> None:
    drafter = make_drafter(tiny_checkpoint("smollm2"), backend)
    assert drafter.max_tokens == 128
    view = View("r", tokens_of(64))
    propose(drafter, [view])
    view.tokens += tokens_of(63)
    assert len(propose(drafter, [view], length=9)[0]) == 2, "the last one is not computed, so it needs no place"
    view.tokens += [5, 6]
    assert propose(drafter, [view]) == [None]
    assert drafter._cache.cache.num_used_blocks == 0
    assert make_drafter(tiny_checkpoint("smollm2"), backend, blocks=3).max_tokens == 48


def test_tokens_that_the_model_does_not_have(backend: Backend, tiny_checkpoint: GetFolder) -> None:
    """Neither read nor proposed: embedding tables of one family's models are padded to different sizes."""
    folder = tiny_checkpoint("smollm2")
    drafter = make_drafter(folder, backend, vocab_size=40)
    views = [View("fine", tokens_of(9)), View("strange", [4, 160, 5])]
    fine, strange = propose(drafter, views, length=8)
    assert strange is None and fine is not None and max(fine.token_ids) < 40
    logits = Oracle(folder, backend.name).logits(views[0].tokens)
    assert fine.token_ids[0] == int(logits[:40].argmax())
    views[0].tokens.append(200)
    assert propose(drafter, views) == [None, None]


def test_forgotten_sequences_leave_nothing(drafter: ModelDrafter) -> None:
    views = [View(f"r{i}", tokens_of(30, i)) for i in range(3)]
    propose(drafter, views)
    for view in views:
        drafter.forget(view)
    drafter.forget(View("never seen", [1]))
    drafter.check_integrity()
    assert drafter._cache.cache.num_used_blocks == 0


def test_a_greedy_path_that_nobody_believes_in_is_not_drafted_further(
    drafter: ModelDrafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = View("r", tokens_of(9))
    (long,) = propose(drafter, [view], length=8)
    bound = float(np.prod(long.confidence[:3])) * 1.01
    monkeypatch.setattr(model_drafter, "HOPELESS", bound)
    (short,) = propose(drafter, [view], length=8)
    assert short == long.trim(3)


def test_confidence_of_a_greedy_draft_is_the_models_probability(
    drafter: ModelDrafter, tiny_checkpoint: GetFolder, backend: Backend
) -> None:
    oracle, view = Oracle(tiny_checkpoint("smollm2"), backend.name), View("r", tokens_of(9))
    (draft,) = propose(drafter, [view])
    assert draft.drafter == "model" and draft.parents is None and draft.distributions is None
    for i, (token, confidence) in enumerate(zip(draft.token_ids, draft.confidence, strict=True)):
        probabilities = oracle.logits([*view.tokens, *draft.token_ids[:i]]).softmax(0)
        assert confidence == pytest.approx(float(probabilities[token]), rel=1e-5)


@pytest.mark.parametrize("extra", [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}], ids=str)
def test_a_drawn_token_comes_from_its_distribution_which_is_the_requests(
    extra: dict, drafter: ModelDrafter, tiny_checkpoint: GetFolder, backend: Backend
) -> None:
    params = SamplingParams(temperature=0.8, seed=11, **extra)
    view = View("r", tokens_of(9), params)
    oracle = Oracle(tiny_checkpoint("smollm2"), backend.name)
    (draft,) = propose(drafter, [view], length=4)
    assert len(draft.distributions) == len(draft) == 4
    for i, (ids, probabilities) in enumerate(draft.distributions):
        tokens = [*view.tokens, *draft.token_ids[:i]]
        state = SamplingState(params, prompt_ids=tokens, vocab_size=160, eos_ids=set())
        expected_ids, expected = Sampler(160).distribution(oracle.logits(tokens).numpy(), SampleRow(state))
        assert ids.tolist() == expected_ids.tolist() and draft.token_ids[i] in ids
        np.testing.assert_allclose(probabilities, expected, rtol=1e-6)
        assert draft.confidence[i] == probabilities.max()


def test_drawn_tokens_depend_on_seed_index_and_position_alone(drafter: ModelDrafter) -> None:
    prompt = tokens_of(30)
    alone = propose(drafter, [View("a", prompt, SAMPLED)], length=5)[0]
    crowd = [View("x", tokens_of(12, 1)), View("b", prompt, SAMPLED), View("y", tokens_of(50, 2), SAMPLED)]
    together = propose(drafter, crowd, length=5)[1]
    assert together.token_ids == alone.token_ids
    others = [View("c", prompt, SAMPLED, index=1), View("d", prompt, SamplingParams(temperature=0.8, seed=12))]
    for other in propose(drafter, others, length=5):
        assert other.token_ids != alone.token_ids
    late = propose(drafter, [View("e", [*prompt, *alone.token_ids[:2]], SAMPLED)], length=3)[0]
    assert late.token_ids != alone.token_ids[2:], "another step, other noise: numbers of refused tokens are spent"


def test_neither_length_nor_confidence_tells_what_was_drawn(
    drafter: ModelDrafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trimming by what depends on the drawn token would bias the output."""
    monkeypatch.setattr(model_drafter, "HOPELESS", 0.5)
    prompt = tokens_of(30)
    seeds = [View(f"r{seed}", prompt, SamplingParams(temperature=1.5, seed=seed)) for seed in range(8)]
    drafts = propose(drafter, seeds, length=4)
    assert len({draft.token_ids[0] for draft in drafts}) > 2
    assert {draft.confidence[0] for draft in drafts} == {drafts[0].confidence[0]}
    assert {len(draft) for draft in drafts} == {4}


def test_draws_follow_their_distribution(backend: Backend, tiny_checkpoint: GetFolder) -> None:
    drafter, count = make_drafter(tiny_checkpoint("smollm2"), backend), 400
    prompt = tokens_of(15)
    counts: dict[int, int] = {}
    for seed in range(count):
        view = View("r", prompt, SamplingParams(temperature=1.0, seed=seed))
        (draft,) = drafter.propose([view], [1])
        counts[draft.token_ids[0]] = counts.get(draft.token_ids[0], 0) + 1
    ids, probabilities = draft.distributions[0]
    shares = np.array([counts.get(token, 0) / count for token in ids.tolist()])
    assert 0.5 * np.abs(shares - probabilities).sum() < 0.5 * np.sqrt(2 * probabilities / (np.pi * count)).sum() * 2


def test_the_draw_can_be_another(backend: Backend, tiny_checkpoint: GetFolder) -> None:
    asked = []

    def last(ids: np.ndarray, weights: np.ndarray, sequence: View, position: int) -> int:
        asked.append((sequence.request_id, position))
        assert weights.sum() == pytest.approx(1.0) and (np.diff(ids) > 0).all()
        return int(ids[-1])

    drafter = make_drafter(tiny_checkpoint("smollm2"), backend, draw=last)
    sampled, greedy = propose(drafter, [View("s", tokens_of(7), SAMPLED), View("g", tokens_of(7))], length=2)
    assert sampled.token_ids == (159, 159) and greedy.distributions is None
    assert asked == [("s", 7), ("s", 8)]
