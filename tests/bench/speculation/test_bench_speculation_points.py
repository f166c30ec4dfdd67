"""Operating points in an engine, their report, and the files of answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import LetterPrompter, ScriptedEngine, Session, plan, turn

from paceline.bench.noise import NoiseGuard
from paceline.bench.output.json_file import as_json
from paceline.bench.output.record import record as record_of
from paceline.bench.output.terminal import markdown_text
from paceline.bench.speculation import answer_files, engine_runner, point_tables
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.engine_runner import EngineRunner
from paceline.bench.speculation.point_report import errors, point_report
from paceline.bench.speculation.points import Outcome, Point, PointBench, PointSettings
from paceline.bench.speculation.spread import spread, timing
from paceline.bench.speculation.step_counts import StepCounts
from paceline.bench.speculation.turns import Pass, Turn


@pytest.fixture(autouse=True)
def _no_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseGuard, "sample", lambda self: None)


def engine_bench(
    engine: ScriptedEngine, settings: PointSettings, monkeypatch: pytest.MonkeyPatch
) -> tuple[PointBench, Session]:
    monkeypatch.setattr(engine_runner, "Prompter", lambda tokenizer: LetterPrompter())
    session: Any = Session(engine)
    return PointBench(EngineRunner(session), settings, say=lambda _: None), session


def real(engine: ScriptedEngine) -> list[Any]:
    return [request for request in engine.requests if len(request.prompt_ids) < 50]


# In an engine


def test_points_are_all_combinations_and_share_the_pass_without_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda _: "abcdefgh")
    bench, _ = engine_bench(engine, PointSettings((1, 2), (0.0, 1.0), (1, None), 20), monkeypatch)
    bench.run({"split": plan(["a"], ["b"])})
    assert [(o.point.temperature, o.point.concurrency, o.point.draft_length) for o in bench.outcomes] == [
        (t, c, d) for t in (0.0, 1.0) for c in (1, 2) for d in (1, None)
    ]
    assert bench.outcomes[0].off is bench.outcomes[1].off is not bench.outcomes[2].off
    wishes = Counter(
        (r.params.temperature, r.params.speculative.enabled, r.params.speculative.max_draft) for r in real(engine)
    )
    assert wishes == {
        (t, enabled, draft): 4 for t in (0.0, 1.0) for enabled, draft in ((False, None), (True, 1), (True, None))
    }


def test_rounds_alternate_who_goes_first_and_every_pass_starts_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda _: "abc")
    bench, session = engine_bench(engine, PointSettings((1,), (0.0,), (None,), 20, rounds=2), monkeypatch)
    bench.run({"split": plan(["a"])})
    assert [request.params.speculative.enabled for request in real(engine)] == [False, True, True, False]
    assert session.renewed == [0, 4, 8, 12]  # three warm-ups and one prompt a pass
    (outcome,) = bench.outcomes
    assert len(outcome.off) == len(outcome.on) == 2 and errors(bench) == []


def test_answers_go_to_the_cap_without_stagger_or_to_the_end_of_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda _: "x" * 900, context_length=700)
    bench, _ = engine_bench(engine, PointSettings((3,), (0.0,), (None,), 400), monkeypatch)
    bench.run({"split": plan(["a"], ["b"], ["c" * 396], ["d", "e"])})
    tokens = {key: turn.tokens for key, turn in bench.outcomes[0].on[0].turns.items()}
    assert tokens == {(0, 0): 400, (1, 0): 400, (2, 0): 700 - 399, (3, 0): 400, (3, 1): 700 - 4 - 403 - 4}


def test_prompts_that_leave_too_little_room_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _ = engine_bench(
        ScriptedEngine(lambda _: "x", context_length=100), PointSettings((1,), (0.0,), (None,), 9), monkeypatch
    )
    runner: Any = bench.runner
    fitting, too_long = runner.plan([one.conversation for one in plan(["a" * 80], ["b" * 90])], 10)
    assert [one.conversation.turns[0][0] for one in fitting] == ["a"] and too_long == 1
    assert runner.tokens("abc") == 6


def test_a_greedy_difference_and_a_miscount_are_errors_with_their_point(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda _: "abcdefgh", miscount=1)
    bench, _ = engine_bench(engine, PointSettings((1,), (0.0, 1.0), (2,), 20), monkeypatch)
    bench.run({"split": plan(["a"])})
    for outcome in bench.outcomes:
        outcome.on[0].turns[0, 0].token_ids[3] += 1
    found = errors(bench)
    assert sum("differs from token 3 on" in error for error in found) == 1  # the sampled one may
    assert sum("the engine counted" in error for error in found) == 4
    assert all(error.startswith("draft 2, 1 at once, T=") for error in found)


# Figures on recorded passes


def recorded(turns: Sequence[Turn], keys: Sequence[tuple[int, int]], speculative: bool = True) -> Pass:
    return Pass(speculative, dict(zip(keys, turns, strict=True)))


def outcome_of(on: Pass, off: Pass | None = None, categories: Sequence[str] = ("qa", "rag")) -> Outcome:
    planned = plan(["one", "two"], ["three"], categories=categories)
    return Outcome("qualitative", Point(2, 0.0, 3, 64), planned, [off] if off else [], [on])


def talks() -> Outcome:
    """A conversation of two turns and one of one, and the same without drafts in twice the time."""
    keys = [(0, 0), (0, 1), (1, 0)]
    on = [turn([4, 4], wait=0.5, seconds=1.0), turn([1, 1], wait=0.5, seconds=1.0), turn([2, 4], wait=1.0, seconds=2.0)]
    off = [
        turn([1] * 8, wait=0.5, seconds=2.0),
        turn([1, 1], wait=0.5, seconds=2.0),
        turn([1] * 6, wait=1, seconds=4.0),
    ]
    for one in (*on, *off):
        one.text = "an answer"
    return outcome_of(recorded(on, keys), recorded(off, keys, False))


def test_request_category_overall_and_pooled_lengths() -> None:
    outcome = talks()
    assert outcome.acceptance("qa").macro == pytest.approx(10 / 4)
    assert outcome.acceptance("rag").macro == pytest.approx(3.0)
    counts = outcome.acceptance()
    assert counts.macro == pytest.approx((10 / 4 + 3) / 2)
    assert counts.micro == pytest.approx(16 / 6)
    assert counts.joint == pytest.approx([4 / 6, 3 / 6, 3 / 6])
    assert counts.conditional == pytest.approx([4 / 6, 3 / 4, 1.0])


def test_spread_is_of_the_population_with_interpolated_quartiles() -> None:
    found = spread([1.0, 2.0, 3.0, 6.0])
    assert found is not None
    assert (found.min, found.max, found.mean, found.count) == (1.0, 6.0, 3.0, 4)
    assert found.std == pytest.approx(((4 + 1 + 0 + 9) / 4) ** 0.5)
    assert (found.q1, found.median, found.q3) == pytest.approx((1.75, 2.5, 3.75))
    assert spread([]) is None


def test_times_are_of_turns_and_the_speedup_is_of_mean_user_rates() -> None:
    outcome = talks()
    on = timing(outcome.on)
    assert on.ttft is not None and on.e2e is not None and on.user_rate is not None
    assert on.ttft.mean == pytest.approx(2 / 3) and on.e2e.max == pytest.approx(3.0)
    assert on.user_rate.mean == pytest.approx((8 + 2 + 3) / 3)
    assert on.output_rates == [pytest.approx(19 / 3.0)]
    assert point_tables.mean_speedup(outcome) == pytest.approx(2.0)


def test_tables_have_every_figure_and_the_published_ones_beside() -> None:
    outcome = talks()
    lengths = point_tables.length_table([outcome], published=True)
    assert lengths.rows[0][:9] == ["qualitative", 2, "0", 3, 2, 2.75, pytest.approx(16 / 6), pytest.approx(
        ((8 + 2 + 2) / 6 + 7 / 3) / 2), pytest.approx(19 / 9)]  # fmt: skip
    assert "2.45" in lengths.note
    categories = point_tables.category_table([outcome_of(outcome.on[0], categories=("coding", "qa"))], published=True)
    assert [list(row) for row in categories.rows] == [["coding", 1, 2.5, 3.00], ["qa", 1, 3.0, None]]
    joint, conditional = point_tables.position_table([outcome]).rows
    assert list(joint[4:8]) == ["joint", "0.67", "0.50", "0.50"] and list(conditional[5:9]) == [
        "0.67",
        "0.75",
        "1.00",
        None,
    ]
    assert list(point_tables.histogram_table([outcome]).rows[0][4:9]) == [2, 1, 0, 3, 0]
    speed = point_tables.speed_table([outcome], published=True)
    assert speed.rows[0][8] == pytest.approx(2.0) and "EAGLE-3" in speed.note
    times = point_tables.time_table([outcome, outcome])
    assert [row[4:6] for row in times.rows] == [
        [k, of] for k in ("off", "on") for of in ("TTFT [s]", "E2E [s]", "user TPS")
    ]


def test_a_servers_sums_leave_means_over_requests_open() -> None:
    outcome = talks()
    outcome.on[0].counted = {"qa": StepCounts(10, 30, 12, [8, 4]), "rag": StepCounts(10, 30, 8, [8])}
    row = point_tables.length_table([outcome], published=False).rows[0]
    assert row[5:9] == [None, pytest.approx(2.0), None, None]
    assert point_tables.category_length(outcome, "qa") == pytest.approx(2.2)
    report = point_report(PointBench(None, PointSettings((2,), (0.0,), (3,), 64), outcomes=[outcome]), "T", "c", {})  # type: ignore[arg-type]
    assert "1 + accepted / drafts" in report.sections[0].text[0]
    assert report.data["points"][0]["acceptance"]["macro"] is None


def test_a_report_has_sections_plots_and_all_values_and_can_be_written() -> None:
    outcome = talks()
    outcome.on[0].notes.append("seen")
    bench = PointBench(None, PointSettings((2,), (0.0,), (3,), 64), outcomes=[outcome])  # type: ignore[arg-type]
    report = point_report(bench, "SPEED-Bench", "paceline bench spec", {"model": "m"}, ["left out"], published=True)
    titles = [section.title for section in report.sections]
    assert titles == [
        "Acceptance length",
        "Acceptance length by category, qualitative",
        "Acceptance by position",
        "Speed",
        "Times of requests",
    ]
    plots = [plot.title for section in report.sections for plot in section.plots]
    assert len(plots) == 4 and "Tokens that a verification step gave" in plots
    assert all(markdown_text(table) for section in report.sections for table in section.tables)
    assert report.warnings[:2] == ["left out", "qualitative, draft 3, 2 at once, T=0: seen"]
    record = json.loads(json.dumps(as_json(record_of(report))))
    assert record["settings"] == {"model": "m"} and record["errors"] == []
    (point,) = record["points"]
    assert point["acceptance_by_category"]["qa"]["macro"] == 2.5
    assert point["timing_on"]["ttft"]["count"] == 3 and point["speedup"] == 2.0


# Files of answers


def spec_bench_question(folder: Path) -> Path:
    file = folder / "question.jsonl"
    rows = [{"question_id": 81, "category": "writing", "turns": []}, {"question_id": 7, "category": "rag", "turns": []}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def spec_bench_plan() -> list[Planned]:
    one, other = plan(["one", "two"], ["three"], categories=("mt_bench", "rag"))
    object.__setattr__(one.conversation, "key", "81")
    object.__setattr__(other.conversation, "key", "7")
    return [one, other]


def test_spec_bench_lines_have_its_fields_topics_and_order(tmp_path: Path) -> None:
    outcome = talks()
    file = tmp_path / "paceline.jsonl"
    written = answer_files.write_spec_bench(
        file, spec_bench_plan(), outcome.off[0], outcome.on[0], "tiny", spec_bench_question(tmp_path)
    )
    assert [path.name for path in written] == ["paceline.jsonl", "paceline.baseline.jsonl"]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["question_id"], line["category"]) for line in lines] == [(7, "rag"), (81, "writing")]
    assert set(lines[1]) == {"question_id", "category", "answer_id", "model_id", "choices", "tstamp"}
    (choice,) = lines[1]["choices"]
    assert choice == {
        "index": 0,
        "turns": ["an answer", "an answer"],
        "decoding_steps": [2, 2],
        "new_tokens": [9, 3],
        "wall_time": [1.5, 1.5],
        "accept_lengths": [4, 4, 1, 1],
    }
    baseline = [json.loads(line) for line in written[1].read_text().splitlines()]
    assert baseline[0]["choices"][0]["accept_lengths"] == [1] * 6 and baseline[0]["model_id"] == "tiny without drafts"


def test_spec_bench_speeds_follow_from_its_files(tmp_path: Path) -> None:
    """As its ``speed.py`` reads them: mean over questions of new tokens / wall time, mean of all accept lengths."""
    outcome = talks()
    file = tmp_path / "a.jsonl"
    answer_files.write_spec_bench(file, spec_bench_plan(), None, outcome.on[0], "m", spec_bench_question(tmp_path))
    choices = [json.loads(line)["choices"][0] for line in file.read_text().splitlines()]
    speeds = [sum(choice["new_tokens"]) / sum(choice["wall_time"]) for choice in choices]
    assert speeds == pytest.approx([7 / 3, 12 / 3])
    lengths = [length for choice in choices for length in choice["accept_lengths"]]
    assert sum(lengths) / len(lengths) == pytest.approx(outcome.acceptance().micro)


def test_speed_bench_responses_leave_out_prefill_and_last_step_as_its_tool_does(tmp_path: Path) -> None:
    outcome = talks()
    lines = answer_files.responses(outcome)
    assert [line["acceptance_lengths"] for line in lines] == [[4, 1], [2]]
    assert [line["turns"] for line in lines] == [["one", "two"], ["three"]]
    assert lines[0]["choices"] == [{"index": 0, "turns": ["an answer", "an answer"]}] == lines[0]["raw_choices"]
    assert answer_files.counted_lengths(turn([3])) == answer_files.counted_lengths(turn([])) == [1]


def test_speed_bench_results_have_its_names_and_rates_by_length(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    written = answer_files.write_speed_bench(file, [talks(), talks()])
    names = ["answers.1.jsonl", "answers.2.jsonl", "answers.acceptance_rate.json", "answers.timing.json"]
    assert [path.name for path in written] == names
    (acceptance, _) = json.loads(written[2].read_text())
    assert acceptance["Request_AL"] == {"p0": 2.5, "p1": 2.0}
    assert acceptance["Category_AL"] == {"qa": 2.5, "rag": 2.0} and acceptance["Average_AL"] == 2.25
    assert acceptance["Acceptance_Length_Histogram"] == {"1": 1, "2": 1, "4": 1}
    joint, conditional = acceptance["Joint_Acceptance_Rate"], acceptance["Conditional_Acceptance_Rate"]
    assert list(joint) == ["1", "2", "3", "4"]
    assert list(joint.values()) == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])
    assert list(conditional.values()) == pytest.approx([1, 2 / 3, 1 / 2, 1])
    (timed, _) = json.loads(written[3].read_text())
    assert timed["TTFT Time"]["mean"] == "0.6667" and timed["TTFT Time"]["quantiles"]["0.5"] == "0.5000"
    assert timed["Output TPS"] == pytest.approx(19 / 3.0)
