"""Admission: the best set of draft tokens for any cost curve, never worse than none, less of them as load grows."""

from __future__ import annotations

import itertools
import random
import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speculation_shapes import CPU_POINTS, H200_POINTS

from paceline.speculation.admit import AHEAD, FLAT, MIN_SURVIVAL, Admission, Beside, admit, best_first
from paceline.speculation.costs import StepCosts
from paceline.speculation.draft import Draft

CPU, H200 = StepCosts(CPU_POINTS), StepCosts(H200_POINTS)
CONVEX_CPU = StepCosts([*CPU_POINTS[:4], (512, 7.62e-3 + 504 * 0.65e-3)])
LIMIT = 512

unit = st.floats(0, 1)
drafts = st.lists(st.lists(unit, max_size=3).map(lambda s: sorted(s, reverse=True)), min_size=1, max_size=3)
#: Curves with jumps, flat pieces, rising and falling slopes.
curves = st.lists(st.sampled_from([0.0, 0.0, 1e-4, 1e-3, 3e-3]), min_size=24, max_size=24).map(
    lambda rises: StepCosts(enumerate(itertools.accumulate(rises, initial=2e-3), start=1))
)


def geometric(acceptance: float, length: int) -> list[float]:
    return [acceptance**k for k in range(1, length + 1)]


def every_choice(survivals: list[list[float]], most: int) -> list[tuple[int, float]]:
    """(draft tokens, expected tokens from them) of all combinations of prefixes of worthwhile tokens."""
    choices = []
    for counts in itertools.product(*(range(len(draft) + 1) for draft in survivals)):
        taken = [s for draft, n in zip(survivals, counts, strict=True) for s in draft[:n]]
        if len(taken) <= most and all(s >= MIN_SURVIVAL for s in taken):
            choices.append((len(taken), sum(taken)))
    return choices


def mean_rise(costs: StepCosts, rows: int) -> float:
    return (costs.seconds(rows + AHEAD) - costs.seconds(rows)) / AHEAD


def unpaid(costs: StepCosts, rows: int, count: int) -> float:
    """Seconds of ``count`` further rows that causal admission did not ask of their tokens."""
    paid = row = 0.0
    for k in range(rows, rows + count):
        row = max(row, min(costs.seconds(k + 1) - costs.seconds(k), mean_rise(costs, k)))
        paid += row
    return max(0.0, costs.seconds(rows + count) - costs.seconds(rows) - paid)


def pace(admission: Admission) -> float:
    return admission.tokens / admission.seconds


class TestTheBestSet:
    @settings(max_examples=300)
    @given(drafts, st.integers(0, 3), curves, st.integers(0, 9))
    def test_without_other_rows_nothing_gives_more_tokens_a_second(
        self, survivals: list[list[float]], plain: int, costs: StepCosts, most: int
    ) -> None:
        sampling = len(survivals) + plain
        best = max((sampling + gain) / costs.seconds(sampling + k) for k, gain in every_choice(survivals, most))
        assert pace(admit(survivals, sampling, 0, costs, most)) >= best * (1 - FLAT) * (1 - 1e-9)

    @settings(max_examples=300)
    @given(drafts, st.integers(1, 9), curves, st.integers(0, 9))
    def test_with_other_rows_nothing_is_worth_more_at_the_price_of_a_step_without_them(
        self, survivals: list[list[float]], others: int, costs: StepCosts, most: int
    ) -> None:
        sampling = len(survivals)
        choices = every_choice(survivals, most)
        price = min(costs.seconds(sampling + k) / (sampling + gain) for k, gain in choices)
        best = max(price * gain - costs.seconds(sampling + others + k) for k, gain in choices)
        admission = admit(survivals, sampling, others, costs, most)
        assert admission.price >= price * (1 - 1e-9)
        value = price * (admission.tokens - sampling) - admission.seconds
        assert value >= best - FLAT * admission.plain_seconds - 1e-12

    @settings(max_examples=300)
    @given(
        drafts,
        st.integers(0, 2),
        curves,
        st.integers(0, 9),
        st.lists(st.sampled_from([0.0, 1e-4, 2e-3]), min_size=3, max_size=3),
    )
    def test_rows_of_long_contexts_cost_more(
        self, survivals: list[list[float]], others: int, costs: StepCosts, most: int, rows: list[float]
    ) -> None:
        """Against every combination of prefixes, each with its own rows' seconds."""
        sampling, alone, step = len(survivals), 1e-3, 1.5e-3
        rows = rows[:sampling]
        choices = []
        for counts in itertools.product(*(range(len(draft) + 1) for draft in survivals)):
            taken = [s for draft, n in zip(survivals, counts, strict=True) for s in draft[:n]]
            if len(taken) <= most and all(s >= MIN_SURVIVAL for s in taken):
                more = sum(row * n for row, n in zip(rows, counts, strict=True))
                choices.append((len(taken), sampling + sum(taken), more))
        price = min((costs.seconds(sampling + k) + alone + more) / tokens for k, tokens, more in choices)
        base = sampling + others
        best = min(costs.seconds(base + k) + step + more - price * tokens for k, tokens, more in choices)
        got = admit(survivals, sampling, others, costs, most, beside=Beside(alone, step, rows))
        assert got.seconds - price * got.tokens <= best + 2 * FLAT * got.plain_seconds
        assert got.plain_seconds == pytest.approx(costs.seconds(base) + step)

    def test_of_equal_drafts_the_one_behind_the_short_context_is_verified(self) -> None:
        rows = [3e-3, 0.0]  # seconds of a row beside the curve
        admission = admit([[0.6, 0.5], [0.6, 0.5]], 2, 0, H200, LIMIT, beside=Beside(2e-3, 2e-3, rows))
        assert admission.counts == [0, 2]
        assert admit([[0.6, 0.5], [0.6, 0.5]], 2, 0, H200, LIMIT).counts == [2, 2]

    def test_a_free_row_behind_a_dear_one_is_found(self) -> None:
        """Kernel blocks of 4 rows: the 5th row costs more than it brings, the 6th to 8th nothing."""
        costs = StepCosts([(1, 1.0), (4, 1.0), (5, 1.3), (8, 1.3), (9, 2.5)])
        assert admit([geometric(0.9, 8)], 1, 0, costs, LIMIT).counts == [7]
        assert admit([geometric(0.5, 8)], 1, 0, costs, LIMIT).counts == [3]

    def test_it_minimises_the_seconds_of_a_given_amount_of_work(self) -> None:
        """40 prompt chunks of 100 rows and 2000 tokens of 8 sequences: no other number of drafts beside the prompts,
        with the best one behind them, takes less time; maximising tokens per second of each step takes more."""
        drafts = [geometric(a, 6) for a in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)]
        order = sorted(itertools.chain(*drafts), reverse=True)
        gains = [8 + sum(order[:k]) for k in range(len(order) + 1)]

        def work(beside: int) -> float:
            alone = min(CPU.seconds(8 + k) / gain for k, gain in enumerate(gains))
            return 40 * CPU.seconds(108 + beside) + (2000 - 40 * gains[beside]) * alone

        greedy = max(range(len(gains)), key=lambda k: gains[k] / CPU.seconds(108 + k))
        chosen = sum(admit(drafts, 8, 100, CPU, LIMIT).counts)
        assert work(chosen) == pytest.approx(min(work(k) for k in range(len(gains))))
        assert work(chosen) < work(greedy)


class TestNeverWorse:
    @settings(max_examples=300)
    @given(drafts, st.integers(0, 3), st.integers(0, 9), curves, st.integers(0, 9))
    def test_expected_pace_is_at_least_that_of_no_drafts(
        self, survivals: list[list[float]], plain: int, others: int, costs: StepCosts, most: int
    ) -> None:
        sampling = len(survivals) + plain
        admission = admit(survivals, sampling, others, costs, most)
        assert admission.plain_seconds == costs.seconds(sampling + others)
        assert pace(admission) >= sampling / admission.plain_seconds * (1 - 1e-9)

    @pytest.mark.parametrize("costs", [CPU, H200], ids=["cpu", "h200"])
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("others", [0, 60, 300])
    def test_on_real_machines_at_any_load(self, costs: StepCosts, causal: bool, others: int) -> None:
        rng = random.Random(1)
        for sampling in range(1, 65):
            survivals = [geometric(rng.uniform(0.02, 0.98), rng.randint(0, 8)) for _ in range(sampling)]
            admission = admit(survivals, sampling, others, costs, LIMIT, causal=causal)
            slack = 0.003 if causal else 1e-9  # of the bulge that the CPU's curve has at 16 rows
            assert pace(admission) >= sampling / costs.seconds(sampling + others) * (1 - slack)


class TestLengths:
    def test_one_sequence_drafts_as_far_as_it_pays(self) -> None:
        def length(costs: StepCosts, acceptance: float) -> int:
            return admit([geometric(acceptance, 16)], 1, 0, costs, LIMIT).counts[0]

        assert [length(CPU, a) for a in (0.05, 0.3, 0.6, 0.8, 0.95)] == [0, 1, 3, 4, 8]
        # Memory-bound: everything that has a chance at all.
        assert [length(H200, a) for a in (0.1, 0.3, 0.6, 0.9)] == [1, 3, 7, 16]

    @pytest.mark.parametrize("costs", [CPU, H200], ids=["cpu", "h200"])
    @pytest.mark.parametrize("acceptance", [0.4, 0.7, 0.9])
    def test_more_sequences_get_shorter_drafts(self, costs: StepCosts, acceptance: float) -> None:
        means = []
        for sampling in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            counts = admit([geometric(acceptance, 8)] * sampling, sampling, 0, costs, 4096).counts
            means.append(sum(counts) / sampling)
        assert all(later <= earlier + 0.3 for earlier, later in itertools.pairwise(means)), means
        assert means[0] >= 1
        assert means[-1] < means[0] / 2

    @pytest.mark.parametrize("costs", [CONVEX_CPU, H200], ids=["cpu", "h200"])
    def test_more_prompt_rows_never_bring_more_drafts_on_a_convex_curve(self, costs: StepCosts) -> None:
        survivals = [geometric(0.7, 8)] * 3
        totals = [sum(admit(survivals, 3, others, costs, 4096).counts) for others in (0, 20, 100, 200, 400)]
        assert totals == sorted(totals, reverse=True)
        assert totals[-1] < totals[0]

    def test_junk_is_not_drafted_beside_a_big_prompt(self) -> None:
        junk = [[0.1, 0.05]] * 4
        assert sum(admit(junk, 4, 500, CPU, LIMIT).counts) == 0
        by_ratio = max(range(9), key=lambda k: (4 + min(k, 4) * 0.1 + max(0, k - 4) * 0.05) / CPU.seconds(504 + k))
        assert by_ratio > 0, "tokens per second of the step alone would have drafted it"

    def test_the_sure_ones_come_first(self) -> None:
        counts = admit([geometric(0.95, 8), geometric(0.3, 8)], 16, 0, CPU, LIMIT).counts
        assert counts[0] >= 3
        assert counts[1] == 0

    def test_equal_tokens_go_to_earlier_drafts(self) -> None:
        assert admit([[0.9], [0.9], [0.9]], 3, 0, H200, 2).counts == [1, 1, 0]

    def test_the_limit_holds(self) -> None:
        assert sum(admit([geometric(0.9, 8)] * 8, 8, 0, H200, 5).counts) == 5
        assert sum(admit([geometric(0.9, 8)], 1, 0, H200, 0).counts) == 0

    def test_hopeless_tokens_are_not_computed_even_for_nothing(self) -> None:
        flat = StepCosts([(1, 1e-3), (64, 1e-3)])
        assert admit([[0.9, MIN_SURVIVAL, MIN_SURVIVAL / 2]], 1, 0, flat, LIMIT).counts == [2]

    def test_a_flat_curve_takes_all(self) -> None:
        admission = admit([geometric(0.8, 8), [], geometric(0.9, 4)], 5, 10, H200, LIMIT)
        assert admission.counts == [8, 0, 4]
        assert admission.tokens == pytest.approx(5 + sum(geometric(0.8, 8)) + sum(geometric(0.9, 4)))
        assert admission.threshold == MIN_SURVIVAL

    @pytest.mark.parametrize(("survivals", "sampling", "others"), [([], 0, 64), ([], 3, 0), ([[], []], 2, 5)])
    def test_nothing_to_verify(self, survivals: list[list[float]], sampling: int, others: int) -> None:
        admission = admit(survivals, sampling, others, CPU, LIMIT)
        assert admission.counts == [0] * len(survivals)
        assert admission.tokens == sampling
        assert admission.seconds == admission.plain_seconds == CPU.seconds(sampling + others)

    @given(st.integers(0, 40), st.integers(0, 300))
    def test_the_threshold_separates_what_is_admitted_from_the_rest(self, plain: int, others: int) -> None:
        survivals = [geometric(a / 10, 8) for a in range(1, 10)]
        admission = admit(survivals, 9 + plain, others, CPU, LIMIT)
        rest = [s for draft, n in zip(survivals, admission.counts, strict=True) for s in draft[n:]]
        assert max(rest) <= admission.threshold + 0.1


class TestCausal:
    """For drawn drafts: what is decided on a token must not depend on it, hence not on the tokens behind it."""

    @settings(max_examples=300)
    @given(st.data(), drafts, st.integers(0, 9), curves, st.integers(0, 9))
    def test_a_token_is_decided_on_without_the_tokens_behind_it(
        self, data: st.DataObject, survivals: list[list[float]], others: int, costs: StepCosts, most: int
    ) -> None:
        sampling = len(survivals)
        before = admit(survivals, sampling, others, costs, most, causal=True).counts
        which = data.draw(st.integers(0, len(survivals) - 1))
        at = data.draw(st.integers(0, len(survivals[which])))
        tail = sorted(data.draw(st.lists(unit, max_size=3)), reverse=True)
        head = survivals[which][:at]
        changed = [*head, *(min(s, head[-1]) if head else s for s in tail)]
        after = admit(
            [changed if i == which else d for i, d in enumerate(survivals)], sampling, others, costs, most, causal=True
        ).counts
        assert min(before[which], at) == min(after[which], at)

    def test_otherwise_it_does_depend_on_them(self) -> None:
        costs = StepCosts([(1, 1.0), (2, 1.9), (9, 1.9)])
        assert admit([[0.85, 0.03]], 1, 0, costs, LIMIT).counts == [0]
        assert admit([[0.85, 0.8]], 1, 0, costs, LIMIT).counts == [2]

    @given(drafts, st.integers(0, 5), st.sampled_from([CONVEX_CPU, H200]))
    def test_on_a_convex_curve_nothing_is_lost(
        self, survivals: list[list[float]], plain: int, costs: StepCosts
    ) -> None:
        sampling = len(survivals) + plain
        best, causal = (admit(survivals, sampling, 0, costs, LIMIT, causal=c) for c in (False, True))
        assert pace(causal) >= pace(best) * (1 - FLAT)

    @settings(max_examples=300)
    @given(drafts, st.integers(0, 9), curves)
    def test_a_jump_that_is_not_paid_is_all_that_can_be_lost(
        self, survivals: list[list[float]], others: int, costs: StepCosts
    ) -> None:
        sampling = len(survivals)
        admission = admit(survivals, sampling, others, costs, LIMIT, causal=True)
        fair = admission.seconds - unpaid(costs, sampling + others, sum(admission.counts))
        assert admission.tokens / fair >= sampling / admission.plain_seconds * (1 - 1e-9)

    def test_a_jump_is_crossed_when_there_is_enough_behind_it(self) -> None:
        costs = StepCosts([(1, 3.3e-3), (64, 3.3e-3), (65, 3.5e-3), (128, 3.5e-3)])
        drafts = [geometric(0.7, 3)] * 40
        assert sum(admit(drafts, 40, 0, costs, LIMIT, causal=True).counts) > 40  # the jump is behind 24


class TestBestFirst:
    def test_a_tree_is_sorted_with_parents_before_children(self) -> None:
        tree = Draft((1, 2, 3, 4, 5), "fake", (-1, -1, 0, 1, 3), (0.2, 0.7, 0.5, 0.9, 1.0))
        draft, survivals = best_first(tree, [0.2, 0.7, 0.1, 0.63, 0.63])
        assert survivals == [0.7, 0.63, 0.63, 0.2, 0.1]
        assert draft == Draft((2, 4, 5, 1, 3), "fake", (-1, 0, 1, -1, 3), (0.7, 0.9, 1.0, 0.2, 0.5))

    def test_a_chain_stays(self) -> None:
        chain = Draft((1, 2), "fake")
        assert best_first(chain, [0.5, 0.5]) == (chain, [0.5, 0.5])


def test_a_decision_takes_a_small_part_of_the_step() -> None:
    rng = random.Random(3)
    for sampling, most in ((1, 25e-6), (32, 250e-6)):
        survivals = [geometric(rng.uniform(0.3, 0.9), 8) for _ in range(sampling)]
        for others in (0, 100):
            run = lambda: admit(survivals, sampling, others, CPU, LIMIT)  # noqa: B023, E731
            taken = min(timeit.repeat(run, number=20, repeat=20)) / 20
            assert taken < most, f"{taken * 1e6:.0f} us for {sampling} sequences"
