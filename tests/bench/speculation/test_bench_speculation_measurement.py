"""Speed-ups as SPEED-Bench and Spec-Bench define them, differences of texts, goals, tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import pytest
from scripted_engine import plan, turn

from paceline.bench.output.terminal import markdown_text
from paceline.bench.speculation import goals, report
from paceline.bench.speculation.calibration import Calibration
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.goals import judge_all
from paceline.bench.speculation.measurement import Measurement, spec_bench_lines
from paceline.bench.speculation.published import CATEGORIES, SPEC_BENCH
from paceline.bench.speculation.records import measurement_json
from paceline.bench.speculation.turns import COUNTERS, Pass, Turn
from paceline.speculation.reliability import ReliabilityBin


def passed(turns: Sequence[Turn], speculative: bool = False, **counters: float) -> Pass:
    result = Pass(speculative, {(i, 0): turn for i, turn in enumerate(turns)})
    tokens = {"generation_tokens": result.tokens, "step_seconds": 1.0}
    result.counters = dict.fromkeys(COUNTERS, 0.0) | tokens | counters
    return result


def measurement(
    off: Sequence[Turn], on: Sequence[Turn], name: str = "chat", load: int = 1, planned: list[Planned] | None = None
) -> Measurement:
    planned = planned or plan(*([f"prompt {i}"] for i in range(len(off))))
    return Measurement(name, load, planned, [passed(off)], [passed(on, True)])


def test_speedup_is_the_ratio_of_medians_with_the_quartiles_of_single_turns() -> None:
    off = [turn([1] * 10, seconds=s) for s in (1.0, 2.0, 4.0)]
    on = [turn([1] * 10, seconds=s) for s in (0.5, 1.0, 1.0)]
    speedup = measurement(off, on).speedup
    assert speedup is not None
    assert speedup.median == pytest.approx(10.0 / 5.0)
    assert (speedup.q1, speedup.q3) == pytest.approx((2.0, 3.0))


def test_turns_without_a_second_token_have_no_speed_but_count_as_output() -> None:
    one = measurement([turn([1], seconds=1.0), turn([], wait=1.0, seconds=0.0)], [turn([1]), turn([], wait=1.0)])
    assert one.user_rates() == ([1.0], [1.0])
    assert measurement([turn([], wait=1.0, seconds=0.0)], [turn([], wait=1.0, seconds=0.0)]).speedup is None


def test_spec_bench_speedup_is_mean_speed_over_mean_speed_and_not_a_mean_of_ratios() -> None:
    off = [turn([1] * 9, seconds=1.0), turn([1] * 9, seconds=5.0)]  # 10 and 2 tokens a second
    on = [turn([3] * 3, seconds=0.5), turn([3] * 3, seconds=5.0)]  # 20 and 2
    (line,) = spec_bench_lines(measurement(off, on))
    assert line.speedup == pytest.approx((20 + 2) / (10 + 2))  # a mean of ratios would be 1.5
    assert line.mean_accepted_tokens == pytest.approx(3.0)


def test_spec_bench_speed_of_a_question_covers_all_its_turns_and_their_prefills() -> None:
    off = Pass(False, {(0, 0): turn([1] * 9, wait=1.0, seconds=1.0), (0, 1): turn([1] * 29, wait=2.0, seconds=6.0)})
    on = Pass(True, {(0, 0): turn([1] * 9, wait=1.0, seconds=1.0), (0, 1): turn([1] * 29, wait=1.0, seconds=1.0)})
    one = Measurement("chat", 1, plan(["a", "b"]), [off], [on])
    assert spec_bench_lines(one)[0].speedup == pytest.approx((40 / 4) / (40 / 10))


def test_spec_bench_has_a_line_for_each_category_and_one_over_all() -> None:
    planned = plan(["a"], ["b"], ["c"], categories=["rag", "qa", "rag"])
    turns = [turn([1] * 9)] * 3
    lines = spec_bench_lines(measurement(turns, turns, "spec_bench", planned=planned))
    assert [(line.category, line.questions) for line in lines] == [("rag", 2), ("qa", 1), ("overall", 3)]


def test_equal_texts_have_no_differences_however_they_were_stepped() -> None:
    assert measurement([turn([1] * 6)], [turn([3, 3])]).differences() == []


def test_a_text_that_differs_is_named_with_its_place() -> None:
    other = turn([3, 3])
    other.token_ids[4] = 99
    (line,) = measurement([turn([1] * 6)], [other]).differences()
    assert line == "chat, load 1, on, round 1: prompt p0, turn 1 differs from token 4 on (7 and 7 tokens)"


def test_a_shorter_text_and_a_turn_that_was_never_asked_are_differences() -> None:
    shorter = measurement([turn([1] * 6)], [turn([3, 2])]).differences()
    assert "from token 6 on (7 and 6 tokens)" in shorter[0]
    missing = Measurement("chat", 1, plan(["a"]), [passed([turn([1])])], [Pass(True)])
    assert "was not asked in both" in missing.differences()[0]


def test_plain_rounds_that_differ_among_themselves_are_found_too() -> None:
    other = turn([1] * 6)
    other.token_ids[0] = 99
    one = measurement([turn([1] * 6)], [turn([1] * 6)])
    one.off.append(passed([other]))
    one.on.append(passed([turn([1] * 6)], True))
    assert [line.split(":")[0] for line in one.differences()] == ["chat, load 1, off, round 2"]


def faster(name: str, load: int, factor: float) -> Measurement:
    return measurement([turn([1] * 9)], [turn([1] * 9, seconds=1 / factor)], name, load)


def test_goals_are_judged_at_their_set_and_load() -> None:
    verdicts = judge_all([faster("edit", 1, 2.1), faster("edit", 8, 1.4), faster("chat", 8, 0.99), faster("qa", 1, 3)])
    judged = {(v.where, v.text): v.met for v in verdicts}
    assert judged == {
        ("edit, load 1", "≥ 2 x"): True,
        ("edit, load 8", "≥ 1.5 x"): False,
        ("chat, load 8", "≥ 1 x"): False,
        ("chat, load 8", "≥ 0.98 x"): True,
        ("edit, load 1", "≤ 0.04"): True,
    }


def test_a_set_that_loses_output_for_user_speed_fails_the_floor() -> None:
    off = [turn([1] * 9, wait=0.1, seconds=0.9)]
    on = [turn([1] * 9, wait=0.8, seconds=0.4)]
    verdict = next(v for v in judge_all([measurement(off, on)]) if "lowest" in v.title)
    assert verdict.value == pytest.approx(1.0 / 1.2) and not verdict.met


def test_drafting_is_judged_at_its_worst() -> None:
    cheap, dear = faster("edit", 1, 2), faster("rag", 1, 2)
    dear.on[0].counters["drafting_seconds"] = 0.05
    verdict = judge_all([cheap, dear])[-1]
    assert (verdict.where, verdict.met) == ("rag, load 1", False)
    assert verdict.value == pytest.approx(0.05) and goals.DRAFTING_LIMIT < 0.05


def test_tables_are_complete_without_a_single_draft() -> None:
    one = [measurement([turn([1] * 9)], [turn([1] * 9)])]
    assert "| all" in markdown_text(report.speed_table(one))
    assert "0.0%" in markdown_text(report.acceptance_table(one))
    assert report.drafter_table(one) is report.calibration_table(Calibration()) is report.prediction_table(one) is None


def test_places_that_were_never_all_taken_leave_their_columns_empty() -> None:
    (cells,) = report.speed_table([measurement([turn([1] * 9)], [turn([1] * 9)])]).rows
    assert cells[5] == "9.00 → 9.00" and list(cells[9:12]) == [None, None, "0%"]


def test_tables_show_drafters_predictions_and_differences() -> None:
    drafted = turn([3, 3, 3], seconds=0.5)
    drafted.drafted, drafted.accepted = Counter(suffix=8), Counter(suffix=6)
    drafted.time, drafted.time_without = 1.0, 2.0
    drafted.token_ids[5] = 99
    one = measurement([turn([1] * 9)], [drafted], "rag")
    assert report.speed_table([one]).rows[0][-1] == "1 DIFFER"
    drafters, predictions, published = (
        table([one]) for table in (report.drafter_table, report.prediction_table, report.spec_bench_table)
    )
    assert drafters is not None and drafters.rows[0][-2] == "75%"
    assert predictions is not None and predictions.rows[0][3] == 2.0
    assert published is not None and {1.86, 2.78} <= set(published.rows[0])  # of rag
    assert report.spec_bench_table([faster("rag", 8, 2)]) is None


def test_published_figures_cover_every_category() -> None:
    for row in SPEC_BENCH:
        assert set(row.speedups) == set(CATEGORIES)
        assert min(row.speedups.values()) < row.speedup < max(row.speedups.values())


def test_every_value_goes_into_the_json_report() -> None:
    planned = plan(["a"], ["b"], categories=["qa", "rag"])
    one = measurement([turn([1] * 6)] * 2, [turn([3, 3]), turn([2, 2, 2])], planned=planned)
    record = json.loads(json.dumps(measurement_json(one)))
    assert record["acceptance"]["histogram"] == {"2": 3, "3": 2}
    assert record["acceptance"]["macro_by_category"] == {"qa": 3.0, "rag": 2.0}
    assert [line["category"] for line in record["spec_bench"]] == ["qa", "rag", "overall"]
    assert len(record["on"][0]["turns"]) == 2
    assert record["differences"] == []


class Telling:
    def __init__(self, *bins: tuple[str, float, float, int]) -> None:
        self.bins = bins

    def speculation_reliability(self) -> list[tuple[str, float, float, int]]:
        return list(self.bins)


def test_calibration_pools_bins_over_passes_by_their_tokens() -> None:
    calibration = Calibration()
    calibration.add(Telling(("0.8", 0.8, 0.5, 10), ("0.1", 0.1, 0.1, 90)))
    calibration.add(Telling(("0.8", 0.9, 0.9, 30)))
    calibration.add(Telling())  # an engine without drafters
    assert calibration.bins() == [
        ReliabilityBin("0.1", pytest.approx(0.1), pytest.approx(0.1), 90),
        ReliabilityBin("0.8", pytest.approx(0.875), pytest.approx(0.8), 40),
    ]
    assert calibration.error == pytest.approx(40 * 0.075 / 130)
    table = report.calibration_table(calibration)
    assert table is not None and table.rows[1][1] == "0.875" and table.note.endswith("0.023")


def test_no_calibration_has_no_error() -> None:
    assert Calibration().error is None


def test_pooled_rates_count_every_second_of_waiting_the_same() -> None:
    """Most turns of the pass with drafts are slower, all of them together are faster."""
    off = [Turn(0.0, 5, first=0.0, last=4.0, token_ids=[1] * 9, prefill_tokens=1) for _ in range(3)]
    on = [Turn(0.0, 5, first=0.0, last=last, token_ids=[1] * 9, prefill_tokens=1) for last in (5.0, 5.0, 0.5)]
    measured = measurement(off, on)
    assert measured.speedup is not None and measured.speedup.median == pytest.approx(0.8)
    assert measured.pooled_speedup is not None and measured.pooled_speedup.median == pytest.approx(12.0 / 10.5)
