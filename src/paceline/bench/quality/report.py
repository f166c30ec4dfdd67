"""What the run found, as tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.bench.quality.intervals import Interval, bootstrap, bootstrap_change, wilson
from paceline.bench.quality.run import Agreement, QualityBench, Result
from paceline.bench.quality.tasks import Task
from paceline.bench.sections import Cell, Plot, Report, Section, Series, Table

SHOWN_DIFFERENCES = 8  # of a pair of settings; the JSON file has all answers
SNIPPET = 60  # characters around the first difference

SCORE_COLUMNS = (
    "task", "setting", "questions", "score [%]", "95% interval", "change [points]", "95% interval of the change",
    "gained", "lost", "unreadable",
)  # fmt: skip
SAME_COLUMNS = (
    "task", "setting", "compared with", "identical [%]", "different", "must be identical", "largest logprob gap",
)  # fmt: skip
SCORE_NOTE = (
    "Changes are to the first setting; gained and lost: questions that only this or only that one answered rightly; "
    "unreadable: answers of another form than asked for. "
    "Interval of an accuracy: Wilson; of F1 and of changes: bootstrap over questions, a question's answers under both "
    "settings drawn together. A change whose interval contains 0 is not shown to be one by this many questions."
)
SAME_NOTE = (
    "Speculation, prefix cache, threads and batch size promise identical answers: texts, and log probabilities bit by "
    "bit. Backends, cache formats and weights do not: they round differently."
)


def quality_report(bench: QualityBench, command: str, settings: Mapping[str, Cell]) -> Report:
    """The whole report."""
    agreements = bench.agreements()
    return Report(
        title="Quality: accuracy, and whether settings change answers",
        command=command,
        settings=settings,
        sections=[_scores(bench), *([_sameness(agreements, bench)] if agreements else [])],
        warnings=[*bench.notes, *broken_promises(agreements)],
        data=_data(bench, agreements),
    )


def broken_promises(agreements: Sequence[Agreement]) -> list[str]:
    """A line for each pair of settings that promised identical answers and did not give them."""
    return [
        f"ERROR: {one.task.name}: {one.setting} must answer as {one.other} does, but {len(one.differing)} of "
        f"{len(one.task.questions)} texts differ"
        + (f", log probabilities by up to {one.weight_gap:.3g}" if one.weight_gap else "")
        for one in agreements
        if one.broken
    ]


def interval_of(task: Task, result: Result) -> Interval:
    """95% interval of a score."""
    if task.metric == "F1":
        return bootstrap(result.counts)
    return wilson(sum(count.hits for count in result.counts), len(result.counts))


def _scores(bench: QualityBench) -> Section:
    rows = [row for task in bench.tasks for row in _score_rows(task, bench.results.get(task.name, {}))]
    texts = [f"{task.name}: {task.title}" for task in bench.tasks]
    plots = [Plot("Score by task", "task", "score [%]", _bars(bench), kind="bar", note="Whiskers: 95% interval.")]
    return Section("Scores", texts, [Table("", SCORE_COLUMNS, rows, SCORE_NOTE)], plots)


def _score_rows(task: Task, results: Mapping[str, Result]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    first = next(iter(results.values()), None)
    for name, result in results.items():
        assert first is not None
        title = task.name if task.metric == "accuracy" else f"{task.name} ({task.metric})"
        row: list[Cell] = [title, name, len(result.counts), _percent(result.score), _span(interval_of(task, result))]
        if result is first:
            row += [None, None, None, None]
        else:
            better = [ours.perfect and not theirs.perfect for ours, theirs in _pairs(result, first)]
            worse = [theirs.perfect and not ours.perfect for ours, theirs in _pairs(result, first)]
            change = bootstrap_change(result.counts, first.counts)
            row += [_points(result.score - first.score), _span(change, signed=True), sum(better), sum(worse)]
        rows.append([*row, sum(not count.readable for count in result.counts)])
    return rows


def _pairs(one: Result, other: Result) -> Any:
    return zip(one.counts, other.counts, strict=True)


def _bars(bench: QualityBench) -> list[Series]:
    """A series of bars for each setting."""
    series = []
    for variant in bench.variants:
        answered = [task for task in bench.tasks if variant.name in bench.results.get(task.name, {})]
        results = [bench.results[task.name][variant.name] for task in answered]
        spans = [interval_of(task, result) for task, result in zip(answered, results, strict=True)]
        series.append(
            Series(
                variant.name,
                [task.name for task in answered],
                [100 * result.score for result in results],
                [100 * low for low, _ in spans],
                [100 * high for _, high in spans],
            )
        )
    return series


def _sameness(agreements: Sequence[Agreement], bench: QualityBench) -> Section:
    rows: list[list[Cell]] = [
        [
            one.task.name,
            one.setting,
            one.other,
            _percent(_identical(one)),
            len(one.differing),
            ("yes: BROKEN" if one.broken else "yes") if one.promised else "no",
            None if one.weight_gap is None else f"{one.weight_gap:.2g}",
        ]
        for one in agreements
    ]
    tables = [Table("", SAME_COLUMNS, rows, SAME_NOTE)]
    different = [row for one in agreements for row in _differences(one, bench)]
    if different:
        columns = ("task", "question", "setting", "answer", "compared with", "answer there")
        note = f"At most {SHOWN_DIFFERENCES} of each pair, from the first difference on; the JSON file has all answers."
        tables.append(Table("Different answers", columns, different, note))
    names = list(dict.fromkeys(f"{one.setting} and {one.other}" for one in agreements))
    series = [_identical_bars(name, [o for o in agreements if f"{o.setting} and {o.other}" == name]) for name in names]
    plot = Plot("Identical answers", "task", "identical answers [%]", series, kind="bar")
    return Section("Same answers", (), tables, [plot])


def _identical(one: Agreement) -> float:
    return 1 - len(one.differing) / len(one.task.questions)


def _identical_bars(name: str, agreements: Sequence[Agreement]) -> Series:
    return Series(name, [one.task.name for one in agreements], [100 * _identical(one) for one in agreements])


def _differences(one: Agreement, bench: QualityBench) -> list[list[Cell]]:
    results = bench.results[one.task.name]
    rows: list[list[Cell]] = []
    for index in one.differing[:SHOWN_DIFFERENCES]:
        ours, theirs = (results[name].answers[index].text for name in (one.setting, one.other))
        start = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(map(len, (ours, theirs)))
        )
        shown = [_snippet(text, start) for text in (ours, theirs)]
        rows.append([one.task.name, one.task.questions[index].key, one.setting, shown[0], one.other, shown[1]])
    return rows


def _snippet(text: str, start: int) -> str:
    """One line of the text, from a little before the first difference."""
    begin = max(0, start - SNIPPET // 4)
    cut = text[begin : begin + SNIPPET].replace("\n", "⏎").replace("|", "¦")
    return ("…" if begin else "") + cut + ("…" if begin + SNIPPET < len(text) else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(change: float) -> str:
    return f"{100 * change:+.1f}"


def _span(interval: Interval, signed: bool = False) -> str:
    show = _points if signed else _percent
    return f"{show(interval[0])} – {show(interval[1])}"


def _data(bench: QualityBench, agreements: Sequence[Agreement]) -> dict[str, Any]:
    return {
        "engines": bench.descriptions,
        "tasks": {task.name: _task_data(task, bench.results.get(task.name, {})) for task in bench.tasks},
        "agreements": [
            {
                "task": one.task.name,
                "setting": one.setting,
                "other": one.other,
                "must_be_identical": one.promised,
                "identical": _identical(one),
                "differing": [one.task.questions[index].key for index in one.differing],
                "largest_logprob_difference": one.weight_gap,
                "broken": one.broken,
            }
            for one in agreements
        ],
    }


def _task_data(task: Task, results: Mapping[str, Result]) -> dict[str, Any]:
    return {
        "title": task.title,
        "metric": task.metric,
        "questions": {question.key: question.gold for question in task.questions},
        "settings": {
            name: {
                "score": result.score,
                "interval": interval_of(task, result),
                "answers": [
                    {"text": answer.text, "logprobs": answer.weights, "hits": count.hits, "readable": count.readable}
                    for answer, count in zip(result.answers, result.counts, strict=True)
                ],
            }
            for name, result in results.items()
        },
    }
