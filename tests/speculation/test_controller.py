"""Who drafts, and how much of it is verified."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from speculation_shapes import CPU_POINTS, H200_POINTS

from paceline.sampling.grammar import ChoiceMatcher, GrammarMatcher
from paceline.sampling.params import SamplingParams
from paceline.sampling.speculative import Speculative
from paceline.speculation.admit import MIN_SURVIVAL
from paceline.speculation.controller import Controller, permitted
from paceline.speculation.costs import StepCosts
from paceline.speculation.decision import StepShape
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress

ROWS = 64


@dataclass
class FakeSequence:
    key: tuple[str, int] = ("r", 0)
    params: SamplingParams = field(default_factory=SamplingParams)
    adapter: str | None = None
    index: int = 0
    prompt_length: int = 1
    grammar: GrammarMatcher | None = None

    def __post_init__(self) -> None:
        self.tokens = [0]

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def token_ids(self) -> np.ndarray:
        return np.array(self.tokens, dtype=np.int32)


class Fixed:
    """Proposes the numbers that follow the last token (what ``right`` sequences take), ``good`` of them right."""

    layers = ()

    def __init__(self, name: str, good: int, length: int = 8, confidence: float = 0.8, cheap: bool = True) -> None:
        self.name, self.cheap = name, cheap
        self.good, self.draft_length, self.confidence = good, length, confidence
        self.asked: list[int] = []
        self.forgotten: list[tuple[str, int]] = []

    def propose(self, sequences: Seq[FakeSequence], lengths: Seq[int]) -> list[Draft | None]:
        self.asked.append(len(sequences))
        return [self.draft(sequence, length) for sequence, length in zip(sequences, lengths, strict=True)]

    def draft(self, sequence: FakeSequence, length: int) -> Draft | None:
        count = min(length, self.draft_length)
        last = sequence.tokens[-1]
        tokens = [last + 1 + i if i < self.good else -1 for i in range(count)]
        return Draft(tuple(tokens), self.name, confidence=(self.confidence,) * count) if count else None

    def observe(self, progress: Seq[Progress]) -> None:
        pass

    def reset(self) -> None:
        pass

    def forget(self, sequence: FakeSequence) -> None:
        self.forgotten.append(sequence.key)


class World:
    """Sequences that count upwards, a controller, and a machine whose steps take what the cost table says."""

    def __init__(self, *drafters: Fixed, count: int = 1, other_rows: int = 0, **params: object) -> None:
        self.costs = StepCosts(CPU_POINTS)
        self.truth = StepCosts(CPU_POINTS)
        self.controller = Controller(drafters, self.costs)
        wishes = SamplingParams(**params)
        self.sequences = [FakeSequence((f"r{i}", 0), wishes) for i in range(count)]
        self.shape = StepShape(count, other_rows, ROWS)
        self.seconds = 0.0
        self.tokens = 0

    def step(self) -> list[Draft | None]:
        decision = self.controller.choose(self.sequences, [16] * len(self.sequences), self.shape)
        progress, rows = [], self.shape.sampling + self.shape.other_rows
        for sequence, draft in zip(self.sequences, decision.drafts, strict=True):
            taken, stem = [sequence.tokens[-1] + 1], -1
            for place, token in enumerate(draft.token_ids if draft else ()):
                parent = place - 1 if draft.parents is None else draft.parents[place]
                if parent == stem and token == taken[-1]:
                    taken.append(token + 1)
                    stem = place
            rows += len(draft) if draft else 0
            sequence.tokens += taken
            self.tokens += len(taken)
            progress.append(Progress(sequence, taken, len(draft) if draft else 0))
        seconds = self.truth.seconds(rows)
        self.seconds += seconds
        self.controller.observe(progress, self.shape, rows, seconds)
        return list(decision.drafts)

    def run(self, steps: int) -> list[Draft | None]:
        for _ in range(steps):
            drafts = self.step()
        return drafts

    @property
    def speed_up(self) -> float:
        plain = self.truth.seconds(self.shape.sampling + self.shape.other_rows) / self.shape.sampling
        return plain / (self.seconds / self.tokens)


def test_good_drafts_are_verified_to_where_they_are_good() -> None:
    world = World(Fixed("a", good=3))
    (draft,) = world.run(60)
    assert draft is not None and len(draft) == 3


def test_drafts_that_are_always_wrong_are_not_verified_and_cost_nothing() -> None:
    world = World(Fixed("a", good=0))
    assert world.run(60) == [None]
    before = world.seconds
    world.run(20)
    assert world.seconds - before == pytest.approx(20 * world.truth.seconds(1))


def test_the_better_of_two_drafters_is_chosen_without_ever_verifying_the_other() -> None:
    world = World(Fixed("confident", good=0, confidence=0.95), Fixed("good", good=8, confidence=0.6))
    drafts = world.run(60)
    assert drafts[0] is not None and drafts[0].drafter == "good"


def test_a_drafter_that_becomes_good_is_noticed_while_nothing_is_verified() -> None:
    drafter = Fixed("a", good=0)
    world = World(drafter)
    assert world.run(80) == [None]
    drafter.good = 8
    assert next(steps for steps in range(40) if world.step() != [None]) < 30


def test_a_drafter_that_asks_for_it_knows_what_a_row_costs() -> None:
    """A row is dear among many sequences on a CPU, and next to nothing on a large GPU."""

    def threshold(count: int, points: list[tuple[int, float]]) -> float:
        drafter = Fixed("a", good=4)
        drafter.threshold = -1.0
        world = World(drafter, Fixed("b", good=2), count=count)
        world.controller.costs = StepCosts(points)
        world.run(5)
        return drafter.threshold

    assert threshold(1, H200_POINTS) == MIN_SURVIVAL < threshold(1, CPU_POINTS) < threshold(32, CPU_POINTS) <= 1.0


@pytest.mark.parametrize("count", [1, 4, 16, 32])
@pytest.mark.parametrize("good", [0, 1, 3, 8])
def test_never_slower(count: int, good: int) -> None:
    world = World(Fixed("a", good=good), count=count)
    world.run(60)
    world.seconds, world.tokens = 0.0, 0
    world.run(40)
    assert world.speed_up >= 0.995


def test_speculation_yields_to_prompts() -> None:
    def drafted(other_rows: int, count: int) -> int:
        world = World(Fixed("a", good=2, length=4), count=count, other_rows=other_rows)
        return sum(len(draft) for draft in world.run(60) if draft)

    assert drafted(0, 8) > 0
    assert drafted(400, 8) <= drafted(0, 8)


def test_a_request_chooses_among_drafters() -> None:
    a, b = Fixed("a", good=8), Fixed("b", good=8)
    world = World(a, b, speculative=Speculative(drafters=("b",)))
    (draft,) = world.run(30)
    assert draft is not None and draft.drafter == "b" and not a.asked


def test_a_model_drafter_is_asked_when_it_is_worth_its_pass() -> None:
    model = Fixed("model", good=8, cheap=False)
    world = World(model)
    (draft,) = world.run(30)
    assert draft is not None and draft.drafter == "model"


def test_a_model_drafter_that_helps_nobody_is_left_alone_but_for_a_look_now_and_then() -> None:
    model = Fixed("model", good=0, cheap=False)
    world = World(model)
    world.run(100)
    asked = len(model.asked)
    world.run(600)
    assert 1 <= len(model.asked) - asked <= 4


def test_a_model_drafter_is_not_asked_where_a_cheap_one_is_as_good() -> None:
    model = Fixed("model", good=4, cheap=False)
    world = World(Fixed("a", good=8, confidence=0.95), model)
    world.run(100)
    asked = len(model.asked)
    world.run(100)
    assert len(model.asked) - asked <= 2


def test_a_model_drafter_that_nobody_was_allowed_to_ask_can_be_asked_later() -> None:
    """The first look at it comes after so many steps that it is a look now and then."""
    model = Fixed("model", good=8, cheap=False)
    world = World(model, speculative=Speculative(drafters=()))
    world.run(300)
    assert not model.asked
    for sequence in world.sequences:
        sequence.params = SamplingParams()
    (draft,) = world.run(30)
    assert draft is not None and draft.drafter == "model"


def test_nothing_is_drafted_before_the_machine_was_timed() -> None:
    controller = Controller([Fixed("a", good=8)])
    assert controller.choose([FakeSequence()], [8], StepShape(1, 0, ROWS)).drafts == [None]


def test_ended_sequences_leave_nothing_behind() -> None:
    drafter = Fixed("a", good=8)
    world = World(drafter, count=3)
    world.run(5)
    for sequence in world.sequences:
        world.controller.forget(sequence)
    assert len(drafter.forgotten) == 3 and not world.controller._tracks


def test_what_was_learned_of_an_unloaded_adapter_is_forgotten_and_nothing_else() -> None:
    cheap, model = Fixed("a", good=8), Fixed("m", good=8, cheap=False)
    world = World(cheap, model, count=2)
    for sequence, adapter in zip(world.sequences, ("x@1", "y@2"), strict=True):
        sequence.adapter = adapter
    world.run(300)  # long enough for a look at the model drafter
    known = {entry["adapter"] for entry in world.controller.calibration.state()["adapters"]}
    assert known == {"x@1", "y@2"}
    world.controller.forget_adapter("x@1")
    assert {entry["adapter"] for entry in world.controller.calibration.state()["adapters"]} == {"y@2"}
    assert all("x@1" not in prospect._means for prospect in world.controller._prospects)


def test_a_trees_tokens_are_verified_in_the_order_of_their_survival() -> None:
    class Tree(Fixed):
        def draft(self, sequence: FakeSequence, length: int) -> Draft:
            last = sequence.tokens[-1]
            return Draft(
                (-1, last + 1, -2, last + 2, -3, last + 3),
                self.name,
                (-1, -1, 0, 1, 2, 3),
                (0.1, 0.9, 0.9, 0.9, 0.9, 0.9),
            )

    world = World(Tree("tree", good=0))
    (draft,) = world.run(60)
    assert draft is not None and draft.parents is None, "what is verified does not branch"
    assert [token for token in draft.token_ids if token > 0] == list(draft.token_ids)


def test_drafts_end_where_the_form_of_the_output_ends_them() -> None:
    grammar = ChoiceMatcher([(1, 2, 3), (1, 5)], eos_ids=[9])
    for tokens, count in (((1, 2, 3, 9, 9), 5), ((1, 2, 4), 2), ((2, 1), 0), ((1, 5, 9), 3), ((1, 5, 6), 2)):
        assert permitted(Draft(tokens, "a"), grammar) == count
    world = World(Fixed("a", good=8))
    world.sequences[0].grammar = ChoiceMatcher([(1, 2, 7)], eos_ids=[9])
    world.controller.choose(world.sequences, [16], world.shape)
    (track,) = world.controller._tracks.values()
    assert track.candidates[0].draft.token_ids == (1, 2)


class Sometimes(Fixed):
    """As sure as it is right: in a step it is right throughout or wrong from the start."""

    def __init__(self, name: str, share: float, seed: int) -> None:
        super().__init__(name, good=0, confidence=0.9)
        self.share, self.random = share, random.Random(seed)

    def draft(self, sequence: FakeSequence, length: int) -> Draft | None:
        self.good = 8 if self.random.random() < self.share else 0
        return super().draft(sequence, length)


def singly(world: World) -> World:
    """The controller takes one of the candidates, the one that is worth most."""
    world.controller._merge = lambda candidates, limit: candidates[0]
    return world


@pytest.mark.parametrize("points", [CPU_POINTS, H200_POINTS], ids=["cpu", "h200"])
@pytest.mark.parametrize("count", [1, 8])
def test_merged_drafts_give_no_fewer_tokens_a_second_than_the_best_single_one(points: list, count: int) -> None:
    def speed(merging: bool) -> tuple[float, set]:
        world = World(Sometimes("a", 0.6, 1), Sometimes("b", 0.5, 2), count=count)
        world.controller.costs, world.truth = StepCosts(points), StepCosts(points)
        world.shape = StepShape(count, 0, 16 * count)
        if not merging:
            singly(world)
        world.run(200)
        world.seconds, world.tokens, used = 0.0, 0, set()
        for _ in range(400):
            used |= {draft.drafters and frozenset(draft.drafters) for draft in world.step() if draft}
        return world.tokens / world.seconds, used

    (merged, used), (single, _) = speed(True), speed(False)
    assert merged > 0.98 * single, "random texts differ by a percent"
    if points is H200_POINTS:
        assert frozenset("ab") in used and merged > 1.15 * single, "rows are free: both are verified"


def test_drawn_drafts_are_never_merged() -> None:
    class Drawn(Fixed):
        def draft(self, sequence: FakeSequence, length: int) -> Draft | None:
            draft = super().draft(sequence, length)
            one = (np.array([1], dtype=np.int64), np.array([1.0]))
            return draft and replace(draft, distributions=(one,) * len(draft))

    world = World(Fixed("a", good=8), Fixed("b", good=8), Drawn("model", good=8, cheap=False))
    world.controller.costs = StepCosts(H200_POINTS)
    for _ in range(30):
        world.step()
        for track in world.controller._tracks.values():
            assert track.best is None or track.best.merged is None or not any(p.drawn for p in track.best.parts)
    world.controller.choose(world.sequences, [16], world.shape)
    (track,) = world.controller._tracks.values()
    names = {candidate.drafter.name: candidate for candidate in track.candidates}
    if "model" in names:
        assert track.best is names["model"]
    else:
        assert track.best.merged is not None


def test_a_merged_draft_stays_within_the_requests_limit() -> None:
    world = World(Sometimes("a", 0.6, 1), Sometimes("b", 0.5, 2))
    world.controller.costs = StepCosts(H200_POINTS)
    for _ in range(50):
        decision = world.controller.choose(world.sequences, [5], world.shape)
        assert all(draft is None or len(draft) <= 5 for draft in decision.drafts)
