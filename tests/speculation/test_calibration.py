"""Calibration: predicted survival is realised survival, on made-up streams and on the default model's own text."""

from __future__ import annotations

import json
import random
import timeit
from collections.abc import Callable
from pathlib import Path

import pytest
from calibration_streams import Event, from_texts, made_up, mean_error, replay
from hypothesis import given
from hypothesis import strategies as st
from speculation_shapes import CPU_POINTS

from paceline.sampling.speculative import MAX_DRAFT
from paceline.speculation.admit import admit
from paceline.speculation.calibration import Calibration, SequenceRecord, outcomes_of
from paceline.speculation.costs import StepCosts
from paceline.speculation.draft import Draft
from paceline.speculation.verify import match_sampled

confidences = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(tuple)


def first(
    calibration: Calibration, record: SequenceRecord, confidence: float = 0.6, adapter: str | None = None
) -> float:
    """Predicted acceptance of a first token."""
    return calibration.survivals("d", adapter, record, (confidence,))[0]


def learn(
    calibration: Calibration,
    record: SequenceRecord,
    outcomes: list[bool],
    confidence: float = 0.6,
    adapter: str | None = None,
) -> None:
    """One draft of as many tokens as outcomes."""
    drafted = (confidence,) * len(outcomes)
    predicted = calibration.survivals("d", adapter, record, drafted)
    calibration.observe("d", adapter, record, drafted, predicted, list(outcomes))


def trained(acceptance: tuple[float, ...], adapter: str | None = None, seed: int = 0) -> Calibration:
    """Has seen a hundred sequences, whose tokens are accepted with these probabilities, 60 tokens each."""
    calibration, rng = Calibration(), random.Random(seed)
    for number in range(100):
        record, rate = SequenceRecord(), acceptance[number % len(acceptance)]
        for _ in range(15):
            learn(calibration, record, drafted(rng, rate, 4), adapter=adapter)
    return calibration


def drafted(rng: random.Random, rate: float, length: int) -> list[bool]:
    outcomes: list[bool] = []
    while len(outcomes) < length and all(outcomes):
        outcomes.append(rng.random() < rate)
    return outcomes


class TestSurvival:
    @given(confidences)
    def test_of_a_chain_it_never_rises_and_is_a_probability(self, confidence: tuple[float, ...]) -> None:
        survivals = Calibration().survivals("d", None, SequenceRecord(), confidence)
        assert len(survivals) == len(confidence)
        assert all(0 < s < 1 for s in survivals)
        assert survivals == sorted(survivals, reverse=True)

    def test_at_first_the_confidence_is_believed(self) -> None:
        for c in (0.05, 0.3, 0.5, 0.7, 0.9):
            assert first(Calibration(), SequenceRecord(), c) == pytest.approx(c, abs=0.06)

    def test_of_a_tree_it_is_the_product_along_ancestors(self) -> None:
        calibration, record = trained((0.3, 0.9)), SequenceRecord()
        tree = calibration.survivals("d", None, record, (0.6, 0.3, 0.7, 0.6), (-1, -1, 0, 2))
        assert tree[:1] + tree[2:] == calibration.survivals("d", None, record, (0.6, 0.7, 0.6))
        assert tree[1] == calibration.survivals("d", None, record, (0.3,))[0]

    @given(confidences, st.booleans())
    def test_a_chain_given_as_a_tree_is_the_same(self, confidence: tuple[float, ...], accepted: bool) -> None:
        results = []
        for parents in (None, range(-1, len(confidence) - 1)):
            calibration, record = Calibration(), SequenceRecord()
            for _ in range(3):
                predicted = calibration.survivals("d", None, record, confidence, parents)
                outcomes = [True] * (len(confidence) - 1) + [accepted]
                calibration.observe("d", None, record, confidence, predicted, outcomes, parents)
            results.append(calibration.survivals("d", None, record, confidence, parents))
        assert results[0] == pytest.approx(results[1], rel=1e-12)

    @given(confidences, st.data())
    def test_it_does_not_depend_on_what_comes_later(self, confidence: tuple[float, ...], data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(confidence)))
        changed = confidence[:at] + data.draw(confidences)
        calibration, record = Calibration(), SequenceRecord()
        learn(calibration, record, [True, True, False])
        survivals = [calibration.survivals("d", None, record, c)[:at] for c in (confidence, changed)]
        assert survivals[0] == survivals[1]

    def test_the_longest_draft_has_a_survival_for_each_token(self) -> None:
        calibration, record = Calibration(), SequenceRecord()
        for _ in range(200):
            learn(calibration, record, [True] * MAX_DRAFT, 0.0)
        assert len(calibration.survivals("d", None, record, (None,) * MAX_DRAFT)) == MAX_DRAFT

    def test_hopeless_drafts_that_are_accepted_after_all_do_no_harm(self) -> None:
        calibration, record = Calibration(), SequenceRecord()
        for _ in range(3000):
            learn(calibration, record, [False], 0.0)
        learn(calibration, record, [True] * MAX_DRAFT, 0.0)
        assert 0 < first(calibration, record, 0.0) < 1

    @pytest.mark.parametrize("accepted", [True, False])
    def test_predictions_that_are_never_renewed_do_no_lasting_harm(self, accepted: bool) -> None:
        calibration, record = Calibration(), SequenceRecord()
        predicted = calibration.survivals("d", None, record, (0.6,))
        for _ in range(20_000):
            calibration.observe("d", None, record, (0.6,), predicted, [accepted])
        for _ in range(2000):
            learn(calibration, record, [not accepted])
        assert (first(calibration, record) > 0.5) is not accepted


class TestTrees:
    """A text's run of accepted tokens goes on as long as some child is accepted: refused siblings are the rule."""

    PARENTS = (-1, -1, 0, 0)

    def run_after(self, *outcomes: bool | None) -> int:
        calibration, record = Calibration(), SequenceRecord()
        learn(calibration, record, [True, True])
        confidence = (0.5,) * len(self.PARENTS)
        predicted = calibration.survivals("d", None, record, confidence, self.PARENTS)
        calibration.observe("d", None, record, confidence, predicted, outcomes, self.PARENTS)
        return record.shift("d").run

    def test_an_accepted_token_beside_a_refused_one_goes_on_with_the_run(self) -> None:
        assert self.run_after(True, False, False, True) == 4
        assert self.run_after(False, True, None, None) == 3

    def test_a_path_whose_children_are_all_refused_ends_it(self) -> None:
        assert self.run_after(True, False, False, False) == 0
        assert self.run_after(False, False, None, None) == 0

    def test_a_text_that_ends_on_the_path_refuses_nothing(self) -> None:
        assert self.run_after(True, False, None, None) == 3


class TestCalibrated:
    @pytest.mark.parametrize("named", [True, False], ids=["confidence", "no confidence"])
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_on_sequences_that_differ(self, seed: int, named: bool) -> None:
        events = made_up(seed, named=named)
        calibrated, raw = replay(events, skip=len(events) // 5)
        assert abs(calibrated.bias) < 0.015
        assert mean_error(calibrated.by_survival()) < 0.02
        assert mean_error(calibrated.by_position()) < 0.015
        for survival, (bias, share) in calibrated.by_survival().items():
            assert abs(bias) < 0.05 or share < 0.03, f"bin {survival}: {bias:+.3f}"
        assert calibrated.log_loss < raw.log_loss - 0.02

    def test_from_the_first_draft_on(self) -> None:
        """A drafter that says 1.0 and is right in half of the cases, as a count of one occurrence does."""
        rng = random.Random(1)
        events = [Event(i // 20, "", (1.0,) * 4, drafted(rng, 0.5, 4)) for i in range(300)]
        calibrated, raw = replay(events)
        assert raw.bias > 0.5
        assert abs(calibrated.bias) < 0.06
        assert abs(replay(events, skip=60)[0].bias) < 0.03

    def test_a_drafter_that_changes_is_followed(self) -> None:
        before = made_up(4, truth=lambda logit, position: logit - 1.5)
        after = made_up(5, truth=lambda logit, position: logit + 1.0)
        calibrated, _ = replay(before + after, skip=len(before) + len(after) // 2)
        assert abs(calibrated.bias) < 0.04  # of a jump by 0.4

    def test_unobserved_tokens_teach_nothing(self) -> None:
        calibration, record = trained((0.5,)), SequenceRecord()
        before = calibration.state()
        calibration.observe("d", None, record, (0.6, 0.6), [0.5, 0.2], [None, None], (-1, -1))
        calibration.observe("d", None, record, (0.6, 0.6), [0.5, 0.2], [])
        assert calibration.state() == before


class TestSequences:
    def test_one_that_copies_and_one_that_does_not_are_told_apart_within_a_few_tokens(self) -> None:
        calibration = trained((0.2, 0.9))
        copies, invents = SequenceRecord(), SequenceRecord()
        between = first(calibration, SequenceRecord())
        assert 0.4 < between < 0.7
        learn(calibration, copies, [True] * 4)
        learn(calibration, invents, [False])
        assert first(calibration, copies) > between + 0.1
        assert first(calibration, invents) < between - 0.1
        for _ in range(2):
            learn(calibration, copies, [True] * 4)
            learn(calibration, invents, [False])
        assert first(calibration, copies) > 0.8
        assert first(calibration, invents) < 0.35

    def test_a_shift_is_followed_in_both_directions(self) -> None:
        calibration, record = trained((0.2, 0.9)), SequenceRecord()
        for _ in range(10):
            learn(calibration, record, [True] * 4)
        assert first(calibration, record) > 0.8
        learn(calibration, record, [False])
        assert first(calibration, record) < 0.7
        for _ in range(5):
            learn(calibration, record, [False])
        assert first(calibration, record) < 0.4
        for _ in range(3):
            learn(calibration, record, [True] * 4)
        assert first(calibration, record) > 0.7

    def test_where_all_are_alike_one_refusal_is_taken_for_chance(self) -> None:
        calibration, record = trained((0.7,)), SequenceRecord()
        before = first(calibration, record)
        learn(calibration, record, [False])
        assert first(calibration, record) > before - 0.1

    def test_a_sequence_has_a_record_of_its_own_for_each_drafter(self) -> None:
        calibration, record = Calibration(), SequenceRecord()
        other = calibration.survivals("other", None, record, (0.6,))
        for _ in range(10):
            learn(calibration, record, [False])
        assert calibration.survivals("other", None, record, (0.6,)) == other


class TestAdapters:
    def test_each_learns_its_own(self) -> None:
        events = []
        streams = (
            made_up(6, truth=lambda logit, position: logit + 1, adapter="good"),
            made_up(7, truth=lambda logit, position: logit - 1.5, adapter="bad"),
        )
        for pair in zip(*streams, strict=True):
            events += pair
        calibrated, _ = replay(events, skip=len(events) // 5)
        assert abs(calibrated.bias) < 0.02
        good, bad = Calibration(), Calibration()
        for stream, calibration in zip(streams, (good, bad), strict=True):
            reliability, _ = replay(stream, calibration, skip=len(stream) // 5)
            assert abs(reliability.bias) < 0.02
        assert first(good, SequenceRecord(), adapter="good") > first(bad, SequenceRecord(), adapter="bad") + 0.3

    def test_a_new_one_starts_with_what_the_drafter_is_known_for(self) -> None:
        calibration = trained((0.1,), adapter="old")
        assert first(Calibration(), SequenceRecord(), adapter="new") > 0.5
        assert first(calibration, SequenceRecord(), adapter="new") < 0.25

    def test_one_that_was_unloaded_is_forgotten(self) -> None:
        calibration = trained((0.1,), adapter="a")
        calibration.forget_adapter("a")
        assert calibration.state()["adapters"] == []


class TestClosedLoop:
    def test_a_drafter_written_off_comes_back_when_it_gets_good(self) -> None:
        """What is not verified is compared with the token that came anyway, and a verified draft shows one token more
        than was admitted; so trust returns position by position without any exploration."""
        calibration, costs, rng = trained((0.1,)), StepCosts(CPU_POINTS), random.Random(2)
        counts = []
        for _ in range(12):
            record = SequenceRecord()
            for _ in range(15):
                survivals = calibration.survivals("d", None, record, (0.6,) * 4)
                (count,) = admit([survivals], 1, 0, costs, 8).counts
                outcomes = drafted(rng, 0.85, 4)[: count + 1]
                calibration.observe("d", None, record, (0.6,) * 4, survivals, list(outcomes))
                counts.append(count)
        assert counts[0] == 0
        assert sum(counts[-60:]) > 3 * 60


class TestState:
    def test_a_restarted_engine_predicts_the_same(self) -> None:
        calibration = trained((0.2, 0.9), adapter="a")
        text = json.dumps(calibration.state())
        assert len(text) < 20_000
        restarted = Calibration()
        restarted.load(json.loads(text))
        for confidence in ((0.6, 0.6, 0.9), (None, None)):
            expected = calibration.survivals("d", "a", SequenceRecord(), confidence)
            assert restarted.survivals("d", "a", SequenceRecord(), confidence) == pytest.approx(expected, rel=1e-3)
        for c in (calibration, restarted):
            learn(c, SequenceRecord(), [True, False], adapter="a")
        assert first(restarted, SequenceRecord(), adapter="a") == pytest.approx(
            first(calibration, SequenceRecord(), adapter="a"), rel=1e-3
        )

    def test_what_was_saved_does_not_change_afterwards(self) -> None:
        calibration = trained((0.5,))
        state = calibration.state()
        text = json.dumps(state)
        learn(calibration, SequenceRecord(), [False])
        assert json.dumps(state) == text

    @pytest.mark.parametrize(
        "damage",
        [
            lambda state: state.pop("drafters"),
            lambda state: state["drafters"]["d"]["bins"]["logits"].pop(),
            lambda state: state["drafters"]["d"]["runs"]["variances"][0].append(1.0),
            lambda state: state["drafters"]["d"]["runs"]["variances"][0].__setitem__(0, -1.0),
            lambda state: state["adapters"][0].update(bins=None),
            lambda state: state["drafters"]["d"]["bins"]["logits"][0].__setitem__(0, "much"),
            lambda state: state["drafters"]["d"]["bins"]["logits"][0].__setitem__(0, 1e9),
        ],
    )
    def test_a_damaged_or_foreign_state_is_refused_whole(self, damage: Callable[[dict], object]) -> None:
        state = trained((0.5,)).state()
        damage(state)
        calibration = trained((0.1,), seed=1)
        before = calibration.state()
        with pytest.raises(ValueError):
            calibration.load(state)
        assert calibration.state() == before


class TestOutcomes:
    @pytest.mark.parametrize(
        ("draft", "taken", "expected"),
        [
            ([5, 6, 7], [5, 6, 7, 8], [True, True, True]),
            ([5, 6, 7], [5, 9, 7], [True, False]),
            ([5, 6, 7], [9], [False]),
            ([5, 6, 7], [5], [True]),  # the text ended, or goes on in a later step: no refusal
            ([5, 6, 7], [], []),
            ([], [5], []),
        ],
    )
    def test_of_a_chain(self, draft: list[int], taken: list[int], expected: list[bool]) -> None:
        assert outcomes_of(draft, None, taken) == expected

    def test_of_a_tree(self) -> None:
        #        5 ── 6 ── 1
        #  root ─┤    └─ 2
        #        8 ── 9
        draft, parents = (5, 8, 6, 9, 1, 2), (-1, -1, 0, 1, 2, 2)
        assert outcomes_of(draft, parents, [5, 6, 2, 4]) == [True, False, True, None, False, True]
        assert outcomes_of(draft, parents, [8, 3]) == [False, True, None, False, None, None]
        assert outcomes_of(draft, parents, [5]) == [True, False, None, None, None, None]
        assert outcomes_of(draft, parents, [3]) == [False, False, None, None, None, None]
        assert outcomes_of(draft, parents, []) == [None] * 6

    def test_a_twin_is_not_observed_where_the_first_was_accepted(self) -> None:
        assert outcomes_of((5, 5, 6, 6), (-1, -1, 0, 1), [5, 6, 1]) == [True, None, True, None]

    @given(st.data(), st.integers(0, 10))
    def test_they_are_what_verification_accepts(self, data: st.DataObject, size: int) -> None:
        token = st.integers(0, 2)
        draft = Draft(
            tuple(data.draw(token) for _ in range(size)),
            "d",
            tuple(data.draw(st.integers(-1, i - 1)) for i in range(size)) if data.draw(st.booleans()) else None,
        )
        verified = match_sampled([data.draw(token) for _ in range(size + 1)], draft)
        outcomes = outcomes_of(draft.token_ids, draft.parents, verified.token_ids)
        assert [i for i, o in enumerate(outcomes) if o] == [row - 1 for row in verified.path[1:]]


def test_it_takes_a_small_part_of_the_step() -> None:
    rng, calibration = random.Random(1), Calibration()
    records = [SequenceRecord() for _ in range(32)]
    drafts = [tuple(rng.random() for _ in range(8)) for _ in records]
    predicted = [calibration.survivals("d", None, r, c) for r, c in zip(records, drafts, strict=True)]

    def predict(count: int) -> None:
        for record, confidence in zip(records[:count], drafts, strict=False):
            calibration.survivals("d", None, record, confidence)

    def observe(count: int) -> None:
        for record, confidence, before in zip(records[:count], drafts, predicted, strict=False):
            calibration.observe("d", None, record, confidence, before, [True, False])

    for work in (predict, observe):
        for count, most in ((1, 15e-6), (32, 300e-6)):
            run = lambda: work(count)  # noqa: B023, E731
            taken = min(timeit.repeat(run, number=10, repeat=30)) / 10
            assert taken < most, f"{work.__name__}: {taken * 1e6:.0f} us for {count} sequences"


def prompts_of(data: Path) -> list[tuple[str, str]]:
    """(group, text): chat, code editing, and tasks that quote what they were given."""

    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in (data / name).read_text().split("\n") if line]

    chat = [("chat", row["turns"][0]) for row in rows("mt_bench/question.jsonl")[::8]]
    edits = [("edit", f"{row['instruction']}\n{row['input']}") for row in rows("edit_eval/edit_eval.jsonl")[::16]]
    tasks = [
        ("task", row["turns"][0])
        for row in rows("spec_bench/question.jsonl")
        if row["category"] in ("translation", "qa", "math_reasoning", "summarization")
    ][::24]
    return chat[:6] + edits[:6] + [(group, text) for group, text in tasks if len(text) < 2500][:6]


@pytest.mark.model
@pytest.mark.slow
def test_real_text_is_predicted_within_three_per_cent(default_model: Path) -> None:
    from paceline.llm import LLM
    from paceline.sampling.params import SamplingParams

    data = next((p / "shared/data" for p in Path(__file__).parents if (p / "shared/data").is_dir()), None)
    if data is None:
        pytest.skip("no prompts: shared/data is not beside the checkout")
    prompts = prompts_of(data)
    with LLM(str(default_model)) as llm:
        ids = [llm.chat_prompt_ids([{"role": "user", "content": text}]) for _, text in prompts]
        texts = []
        for temperature in (0.0, 0.8):
            params = [SamplingParams(max_tokens=90, temperature=temperature, seed=i) for i in range(len(ids))]
            for (group, _), prompt, output in zip(prompts, ids, llm.generate(ids, params), strict=True):
                texts.append((group, prompt, output.outputs[0].token_ids))
    random.Random(1).shuffle(texts)
    for smoothed in (True, False):
        calibration = Calibration()
        replay(from_texts(texts[: len(texts) // 3], smoothed), calibration)
        calibrated, raw = replay(from_texts(texts[len(texts) // 3 :], smoothed), calibration)
        assert len(calibrated.survival) > 1000
        assert abs(calibrated.bias) < 0.03
        assert mean_error(calibrated.by_survival()) < 0.03
        assert mean_error(calibrated.by_position()) < 0.03
        assert mean_error(calibrated.by_group()) < 0.05
        assert calibrated.log_loss < raw.log_loss
