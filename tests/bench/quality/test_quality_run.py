"""Scores, differences and broken promises, on answerers whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from paceline.bench.quality.answerers import CannotAnswerError
from paceline.bench.quality.judges import judge_entities, judge_text
from paceline.bench.quality.report import broken_promises, quality_report
from paceline.bench.quality.run import QualityBench, Variant
from paceline.bench.quality.tasks import Question, Task
from paceline.bench.sections import Series, Table

GOLDS = [" A", " B", " A", " B"]
QUESTIONS = [Question(f"q{i}", f"prompt {i}", gold) for i, gold in enumerate(GOLDS)]
WRITE = Task("write", "letters", "write", judge_text, QUESTIONS, max_tokens=4, stop=("\n",))
WEIGH = Task("weigh", "letters", "weigh", judge_text, QUESTIONS, options=(" A", " B"))
CHOOSE = Task("choose", "letters", "choose", judge_text, QUESTIONS, options=(" A", " B"))


class Scripted:
    """Answers from a list; notes how it was asked."""

    def __init__(
        self, texts: Sequence[str], weights: Sequence[tuple[float, ...]] = (), can_choose: bool = True
    ) -> None:
        self.texts, self.weights, self.can_choose = list(texts), list(weights), can_choose
        self.asked: list[object] = []
        self.closed = False

    description = "a script"

    def write(self, prompts, max_tokens, stop):
        self.asked.append((list(prompts), max_tokens, tuple(stop)))
        return self.texts

    def weigh(self, prompts, options):
        return self.weights

    def choose(self, prompts, options):
        if not self.can_choose:
            raise CannotAnswerError("no grammar")
        return self.texts

    def close(self) -> None:
        self.closed = True


def bench(tasks: list[Task], answerers: dict[str, Scripted], numerics=None, **options: object) -> QualityBench:
    kinds = numerics or {}
    variants = [Variant(name, kinds.get(name, ()), lambda one=one: one) for name, one in answerers.items()]
    made = QualityBench(tasks, variants, say=lambda _: None, **options)  # type: ignore[arg-type]
    made.run()
    return made


def table(report, title: str, index: int = 0) -> Table:
    (section,) = [section for section in report.sections if section.title == title]
    return section.tables[index]


def rows(table: Table) -> list[dict[str, object]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_every_setting_is_asked_the_same_and_closed():
    one, other = Scripted(GOLDS), Scripted(GOLDS)
    bench([WRITE], {"base": one, "speculation=off": other})
    assert one.asked == other.asked == [([q.prompt for q in QUESTIONS], 4, ("\n",))]
    assert one.closed and other.closed


def test_scores_and_changes_are_counted_by_question():
    found = bench(
        [WRITE],
        {"base": Scripted([" A", " A", " A", " A"]), "other": Scripted([" A", " B", " B", "B"])},
        {"other": (("backend", "x"),)},
    )
    report = quality_report(found, "paceline bench quality", {})
    first, second = rows(table(report, "Scores"))
    assert (first["score [%]"], second["score [%]"], second["change [points]"]) == (
        "50.0",
        "75.0",
        "+25.0",
    )
    assert (second["gained"], second["lost"]) == (2, 1)
    (same,) = rows(table(report, "Same answers"))
    assert (same["identical [%]"], same["different"], same["must be identical"]) == ("25.0", 3, "no")
    assert broken_promises(found.agreements()) == [] and not report.warnings


def test_a_difference_where_none_is_promised_is_an_error_with_the_answers():
    found = bench([WRITE], {"base": Scripted(GOLDS), "speculation=off": Scripted([*GOLDS[:3], " A then"])})
    (problem,) = broken_promises(found.agreements())
    assert problem == "ERROR: write: speculation=off must answer as base does, but 1 of 4 texts differ"
    report = quality_report(found, "", {})
    assert problem in report.warnings
    assert table(report, "Same answers", 1).rows == [["write", "q3", "speculation=off", " A then", "base", " B"]]


def test_settings_are_compared_with_the_first_that_promises_the_same():
    answerers = {name: Scripted(GOLDS) for name in ("base", "torch", "off", "torch,off")}
    kinds = {"torch": (("backend", "torch"),), "torch,off": (("backend", "torch"),)}
    found = bench([WRITE], answerers, kinds).agreements()
    assert [(one.setting, one.other, one.promised) for one in found] == [
        ("torch", "base", False), ("off", "base", True), ("torch,off", "torch", True)
    ]  # fmt: skip


def test_all_may_be_told_to_agree():
    answerers = {"base": Scripted(GOLDS), "torch": Scripted([" B", *GOLDS[1:]])}
    found = bench([WRITE], answerers, {"torch": (("backend", "torch"),)}, all_agree=True)
    assert len(broken_promises(found.agreements())) == 1


def test_the_likeliest_option_is_the_answer_and_log_probabilities_must_agree_too():
    weights = [(-0.5, -1.0), (-2.0, -0.1), (-0.5, -0.6), (-3.0, -1.0)]
    other = [*weights[:3], (-3.0, -1.5)]  # the same letter, another probability
    found = bench([WEIGH], {"base": Scripted([], weights), "off": Scripted([], other)})
    assert [answer.text for answer in found.results["weigh"]["base"].answers] == GOLDS
    (agreement,) = found.agreements()
    assert agreement.weight_gap == pytest.approx(0.5) and not agreement.differing and agreement.broken
    assert "0 of 4 texts differ, log probabilities by up to 0.5" in broken_promises([agreement])[0]


def test_a_task_that_a_server_cannot_do_is_left_out_and_told():
    found = bench([CHOOSE, WRITE], {"url": Scripted(GOLDS, can_choose=False)})
    report = quality_report(found, "", {})
    assert list(found.results) == ["write"]
    assert report.warnings == ["choose was left out with url: no grammar"]
    assert [row["task"] for row in rows(table(report, "Scores"))] == ["write"]


def test_an_answerer_is_closed_when_it_fails():
    class Failing(Scripted):
        def write(self, prompts, max_tokens, stop):
            raise ZeroDivisionError

    failing = Failing([])
    with pytest.raises(ZeroDivisionError):
        bench([WRITE], {"base": failing})
    assert failing.closed


def test_entities_have_an_f1_and_bars_have_whiskers():
    gold = '[{"text": "Rome", "type": "location"}, {"text": "UN", "type": "organization"}]'
    task = Task("ner", "entities", "write", judge_entities, [Question("0", "p", gold), Question("1", "q", gold)], "F1")
    answers = ['[{"text": "Rome", "type": "location"}]', "Rome, UN"]
    report = quality_report(bench([task], {"base": Scripted(answers)}), "", {})
    (row,) = rows(table(report, "Scores"))
    assert (row["task"], row["score [%]"], row["unreadable"]) == ("ner (F1)", "40.0", 1)  # 2 * 1 / (1 + 4)
    (series,) = report.sections[0].plots[0].series
    assert isinstance(series, Series) and series.x == ["ner"] and series.y == [pytest.approx(40.0)]
    assert series.low is not None and series.high is not None and series.low[0] < 40 < series.high[0]
    stored = report.data["tasks"]["ner"]["settings"]["base"]
    assert [answer["text"] for answer in stored["answers"]] == answers
