"""The turbo drafter: the program is the trained module's maths, whatever way states came, or did not come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from draft_models import View, tokens_of

from paceline import _suffix
from paceline.backends.base import Backend
from paceline.backends.registry import get_backend
from paceline.errors import PacelineError
from paceline.models.loading import LoadedModel, load_model
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress
from paceline.speculation.drafters.turbo import LEVEL_ROWS, TurboDrafter
from paceline.speculation.drafters.turbo_cache import halved, widened
from paceline.speculation.drafters.turbo_format import SpeculatorConfig
from paceline.speculation.drafters.turbo_model import WeightKind, lay_out
from paceline.training.architecture import target_tables
from paceline.training.speculator import Speculator
from paceline.training.vocabulary import draft_indices
from turbo_models import Tensors, random_tensors, tiny_config

WINDOW = 32
POSITIONS = 4


class Bench:
    """A tiny target, a random speculator, its module; and hidden states of made-up texts."""

    def __init__(self, folder: Path, name: str, kind: WeightKind, **wishes: object) -> None:
        try:
            self.backend: Backend = get_backend(name) if name == "torch" else get_backend(name, threads=2)
        except PacelineError as error:
            pytest.skip(str(error))
        self.target: LoadedModel = load_model(folder, self.backend)
        self.config: SpeculatorConfig = tiny_config(self.target, **wishes)
        self.tensors: Tensors = random_tensors(self.config)
        self.kind = kind
        self.module = Speculator(self.config, self.tensors, target_tables(folder).embedding)

    def drafter(self, **options: object) -> TurboDrafter:
        own = self.backend.sibling()
        model = lay_out(self.config, self.tensors, self.target.weights.embedding, own, self.kind)
        options = {"max_sequences": 4, "max_tokens": 256, "cache_dtype": "f32", **options}
        return TurboDrafter(model, own, **options)

    def states(self, count: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, self.config.state_width, generator=generator).bfloat16().float()  # as they are kept

    @torch.no_grad()
    def expected(
        self, tokens: Sequence[int], states: torch.Tensor, first: int = 1, length: int = 4
    ) -> tuple[torch.Tensor, Draft]:
        """Logits ``[positions, vocabulary + 1]`` behind all ``tokens``, and the tree of ``length`` tokens that grows
        from them; only entries of tokens from ``first`` on are seen. ``states[i]`` is of token ``i``."""
        ids = torch.tensor([tokens[first - 1 :]])
        rows = torch.cat([torch.zeros(1, states.shape[1]), states[first - 1 : len(tokens) - 1]])
        out = self.module(ids, rows[None], torch.tensor([[ids.shape[1] - 1]]))
        logits = torch.cat([out.tokens[0, 0], out.survival[0, 0][:, None]], dim=1)
        indices = draft_indices(self.module.tokens, self.config.target.vocab_size)
        chosen, parents = np.empty(length, dtype=np.int32), np.empty(length, dtype=np.int32)
        confidence, sizes = np.empty(length, dtype=np.float32), np.empty(1, dtype=np.int32)
        markov = _suffix.MarkovTerm(self.module.markov_previous.numpy(), self.module.markov_next.numpy())
        _suffix.grow_trees(
            logits.numpy(), np.array([min(length, POSITIONS)], dtype=np.int32), np.array([length], dtype=np.int32),
            indices[tokens[-1:]].numpy().astype(np.int32), markov, chosen, parents, confidence, sizes,
        )  # fmt: skip
        size = int(sizes[0])
        found = tuple(parents[:size].tolist())
        return logits, Draft(
            tuple(self.module.tokens[chosen[:size].tolist()].tolist()),
            "turbo",
            parents=None if found == tuple(range(-1, size - 1)) else found,
            confidence=tuple(confidence[:size].tolist()),
        )


def progress(view: View, first: int, states: torch.Tensor, tokens: Sequence[int] = ()) -> Progress:
    """A step that computed the tokens from ``first`` on whose ``states`` these are; rows stand in shuffled order."""
    order = np.random.default_rng(len(states)).permutation(len(states))
    shuffled = torch.empty_like(states)
    shuffled[torch.from_numpy(order)] = states
    return Progress(view, list(tokens), 0, first, order.tolist(), shuffled, (0, 2))


def watch(drafter: TurboDrafter) -> list[torch.Tensor]:
    """The logits of each pass from now on."""
    seen: list[torch.Tensor] = []
    program = drafter._program

    class Watching:
        max_rows = program.max_rows

        def run(self, batch: object) -> object:
            output = program.run(batch)
            seen.append(output.logits.clone())
            return output

    drafter._program = Watching()
    return seen


@pytest.fixture(scope="module", params=["torch", "cpu"])
def bench(request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Path]) -> Bench:
    return Bench(tiny_checkpoint("smollm2"), request.param, "f32")


def close(found: Draft | None, wanted: Draft) -> bool:
    if not wanted.token_ids:  # nothing is likely enough
        return found is None
    assert found is not None and wanted.confidence is not None and found.confidence is not None
    assert found.drafter == wanted.drafter
    same = (found.token_ids, found.parents) == (wanted.token_ids, wanted.parents)
    return same and np.allclose(found.confidence, wanted.confidence, atol=1e-3)


def test_the_program_computes_what_the_module_computes(bench: Bench) -> None:
    tokens, states = tokens_of(20), bench.states(20)
    view, drafter = View("r", tokens), bench.drafter()
    logits = watch(drafter)
    drafter.observe([progress(view, 0, states[:19])])
    (draft,) = drafter.propose([view], [9])
    expected, wanted = bench.expected(tokens, states, length=9)
    assert logits[0].shape == (POSITIONS, bench.config.vocab_size + 1)
    assert torch.allclose(logits[0], expected, atol=2e-4)
    assert close(draft, wanted)


@pytest.mark.parametrize(("kind", "error"), [("q8", 0.04), ("q4", 0.5)])
def test_rounded_weights_move_logits_a_little(tiny_checkpoint: Callable[[str], Path], kind: str, error: float) -> None:
    bench = Bench(tiny_checkpoint("smollm2"), "cpu", kind)
    tokens, states = tokens_of(20), bench.states(20)
    view, drafter = View("r", tokens), bench.drafter()
    logits = watch(drafter)
    drafter.observe([progress(view, 0, states[:19])])
    drafter.propose([view], [9])
    expected, _ = bench.expected(tokens, states)
    off = (logits[0] - expected).square().mean().sqrt() / expected.std()
    assert 0 < off < error


def test_drafts_do_not_depend_on_how_states_came_or_who_else_drafts(bench: Bench) -> None:
    texts = [tokens_of(60, seed) for seed in range(3)]
    states = [bench.states(60, seed) for seed in range(3)]
    drafter = bench.drafter()
    views = [View(str(i), text[:1]) for i, text in enumerate(texts)]
    random = np.random.default_rng(3)
    for _ in range(14):
        asked, parts = [], []
        for view, text, state in zip(views, texts, states, strict=True):
            step = int(random.integers(1, 5))
            known = view.length
            view.tokens = text[: known + step]
            parts.append(progress(view, known - 1, state[known - 1 : known - 1 + step]))
            if random.random() < 0.6:
                asked.append(view)
        drafter.observe(parts)
        lengths = [int(random.integers(1, 7)) for _ in asked]
        for view, length, draft in zip(asked, lengths, drafter.propose(asked, lengths), strict=True):
            _, wanted = bench.expected(view.tokens, states[int(view.request_id)], length=length)
            assert close(draft, wanted)
        drafter.check_integrity()
    assert max(view.length for view in views) > WINDOW


def test_being_asked_again_changes_nothing(bench: Bench) -> None:
    view, drafter = View("r", tokens_of(9)), bench.drafter()
    drafter.observe([progress(view, 0, bench.states(8))])
    drafts = [drafter.propose([view], [length])[0] for length in (4, 2, 4)]
    assert drafts[0] == drafts[2] and drafts[1] == drafts[0].trim(2)


def test_text_behind_a_prefix_cache_is_not_seen_and_not_missed(bench: Bench) -> None:
    tokens, states = tokens_of(50), bench.states(50)
    view, drafter = View("r", tokens[:40]), bench.drafter()
    drafter.observe([progress(view, 32, states[32:39])])
    assert close(drafter.propose([view], [4])[0], bench.expected(tokens[:40], states, first=33)[1])
    view.tokens = tokens[:43]
    drafter.observe([progress(view, 39, states[39:42])])
    assert close(drafter.propose([view], [4])[0], bench.expected(tokens[:43], states, first=33)[1])


def test_a_gap_in_the_middle_begins_a_new_context(bench: Bench) -> None:
    tokens, states = tokens_of(60), bench.states(60)
    view, drafter = View("r", tokens[:30]), bench.drafter()
    drafter.observe([progress(view, 0, states[:9])])  # a chunk of the prompt
    assert drafter.propose([view], [4]) == [None], "states up to the last token have not come"
    drafter.observe([progress(view, 16, states[16:29])])  # it was preempted, and others computed a part meanwhile
    assert close(drafter.propose([view], [4])[0], bench.expected(tokens[:30], states, first=17)[1])
    drafter.check_integrity()


def test_what_is_computed_again_after_preemption_is_not_taken_twice(bench: Bench) -> None:
    tokens, states = tokens_of(30), bench.states(30)
    view, drafter = View("r", tokens[:20]), bench.drafter()
    drafter.observe([progress(view, 0, states[:19])])
    before = drafter.propose([view], [4])
    drafter.observe([progress(view, 0, states[:16])])
    assert drafter.propose([view], [4]) == before
    view.tokens = tokens[:21]
    drafter.observe([progress(view, 16, states[16:20])])
    assert close(drafter.propose([view], [4])[0], bench.expected(tokens[:21], states)[1])


def test_of_a_long_prompt_only_the_window_is_computed(bench: Bench) -> None:
    tokens, states = tokens_of(200), bench.states(200)
    view, drafter = View("r", tokens), bench.drafter()
    for start in range(0, 199, 64):
        drafter.observe([progress(view, start, states[start : min(start + 64, 199)])])
    assert drafter._tracks.get(view).num_waiting == WINDOW
    (draft,) = drafter.propose([view], [4])
    assert close(draft, bench.expected(tokens, states, first=200 - WINDOW)[1])


def test_catching_up_is_bounded_in_a_call(tiny_checkpoint: Callable[[str], Path]) -> None:
    bench = Bench(tiny_checkpoint("smollm2"), "torch", "f32", window=256)
    tokens, states = [tokens_of(100, seed) for seed in range(2)], [bench.states(100, seed) for seed in range(2)]
    views = [View("long", tokens[0]), View("short", tokens[1][:12])]
    drafter = bench.drafter(catch_up_rows=40)
    drafter.observe([progress(views[0], 0, states[0][:99]), progress(views[1], 0, states[1][:11])])
    logits = watch(drafter)
    for call in range(3):
        long, short = drafter.propose(views, [4, 4])
        assert close(short, bench.expected(tokens[1][:12], states[1])[1]), "others do not wait"
        assert (long is None) == (call < 2)
    assert close(long, bench.expected(tokens[0], states[0])[1])
    assert [len(rows) for rows in logits] == [4, 4, 8]


def test_states_of_a_sequence_that_never_drafts_do_not_pile_up(bench: Bench) -> None:
    tokens, states = tokens_of(250), bench.states(250)
    view, drafter = View("r", tokens[:2]), bench.drafter()
    for length in range(2, 251):
        view.tokens = tokens[:length]
        drafter.observe([progress(view, length - 2, states[length - 2 : length - 1])])
        assert drafter._tracks.get(view).num_waiting <= 2 * WINDOW
    drafts = [drafter.propose([view], [4])[0] for _ in range(2)]
    assert drafts[-1] is not None and len(drafts[-1]) == POSITIONS
    drafter.check_integrity()


def test_more_sequences_than_tracks_give_way_and_come_back(bench: Bench) -> None:
    drafter = bench.drafter(max_sequences=2)
    views = [View(str(i), tokens_of(12, i)) for i in range(3)]
    for i, view in enumerate(views):
        drafter.observe([progress(view, 0, bench.states(11, i))])
    drafts = drafter.propose(views, [4, 4, 4])
    assert [draft is None for draft in drafts] == [True, False, False]
    for view in views:
        drafter.forget(view)
    drafter.check_integrity()
    assert drafter._tracks.cache.num_used_blocks == 0


def test_nobody_waits_for_blocks_with_every_track_full(bench: Bench) -> None:
    drafter = bench.drafter(max_sequences=4, max_tokens=250)
    views = [View(str(i), tokens_of(250, i)) for i in range(4)]
    for i, view in enumerate(views):
        drafter.observe([progress(view, 0, bench.states(249, i))])
    for _ in range(LEVEL_ROWS):
        drafts = drafter.propose(views, [4] * 4)
    assert all(draft is not None for draft in drafts)
    drafter.check_integrity()


def test_hidden_states_of_other_drafters_layers_are_passed_over(bench: Bench) -> None:
    tokens, states = tokens_of(12), bench.states(12)
    view, drafter = View("r", tokens), bench.drafter()
    width = bench.config.target.hidden_size
    low, high = states[:11].split(width, dim=1)
    part = progress(view, 0, torch.cat([low, torch.full_like(low, 9.0), high], dim=1))
    part.layers = (0, 1, 2)
    drafter.observe([part])
    assert close(drafter.propose([view], [4])[0], bench.expected(tokens, states)[1])


def test_a_row_that_is_not_finite_ends_the_draft(bench: Bench) -> None:
    view, drafter = View("r", tokens_of(12)), bench.drafter()
    states = bench.states(11)
    states[-1, 0] = float("nan")
    drafter.observe([progress(view, 0, states)])
    assert drafter.propose([view], [4]) == [None]


def test_waiting_states_are_bfloat16_and_no_part_of_a_larger_array(bench: Bench) -> None:
    numbers = bench.states(3) * (1 + 2**-9)  # between two of them
    kept = halved(numbers.numpy().copy())
    assert kept.dtype == np.uint16 and kept.base is None
    assert torch.equal(torch.from_numpy(widened(kept)), numbers.bfloat16().float())


def test_a_speculator_keeps_nothing_of_its_file_mapped(bench: Bench) -> None:
    model = bench.drafter().model
    arrays = (model.tokens, model.state_scale, model.masks)
    assert all(array.base is None for array in arrays)
