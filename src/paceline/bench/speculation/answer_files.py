"""Answers in the benchmarks' own files, so that their tools and whoever knows them can read ours.

Spec-Bench: the lines that ``evaluation/eval.py`` of github.com/hemingkx/Spec-Bench writes and ``speed.py`` reads, one
file with drafts and one without. SPEED-Bench: what ``examples/specdec_bench`` of github.com/NVIDIA/Model-Optimizer
writes: responses, ``acceptance_rate.json``, ``timing.json``.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.points import Outcome
from paceline.bench.speculation.spread import Spread, timing
from paceline.bench.speculation.turns import Pass, Turn
from paceline.bench.speculation.workloads import rows


def turns_of(passed: Pass, index: int) -> list[Turn]:
    """The turns of a conversation, in their order."""
    return [turn for key, turn in sorted(passed.turns.items()) if key[0] == index]


# Spec-Bench


def spec_bench_lines(
    planned: Sequence[Planned], passed: Pass, model: str, topics: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A line a question, by question number. ``topics``: the question file's own categories, among them the eight of
    MT-Bench, from which Spec-Bench's ``speed.py`` makes one."""
    lines = []
    for index, one in enumerate(planned):
        key, turns = one.conversation.key, turns_of(passed, index)
        choice = {
            "index": 0,
            "turns": [turn.text for turn in turns],
            "decoding_steps": [len(turn.lengths) for turn in turns],
            "new_tokens": [turn.tokens for turn in turns],
            "wall_time": [turn.seconds for turn in turns],
            "accept_lengths": [length for turn in turns for length in turn.lengths],
        }
        lines.append(
            {
                "question_id": int(key) if key.isdigit() else key,
                "category": topics.get(key, one.conversation.category),
                "answer_id": uuid.uuid4().hex,
                "model_id": model,
                "choices": [choice],
                "tstamp": time.time(),
            }
        )
    return sorted(lines, key=lambda line: (str(type(line["question_id"])), line["question_id"]))


def write_spec_bench(
    file: Path, planned: Sequence[Planned], off: Pass | None, on: Pass, model: str, questions: Path
) -> list[Path]:
    """Writes ``file`` with drafts and, beside it, ``STEM.baseline.jsonl`` without; gives what was written."""
    topics = {str(row["question_id"]): str(row["category"]) for row in rows(questions)} if questions.is_file() else {}
    written = [_write_lines(file, spec_bench_lines(planned, on, model, topics))]
    if off is not None:
        baseline = file.with_name(f"{file.stem}.baseline{file.suffix}")
        written.append(_write_lines(baseline, spec_bench_lines(planned, off, f"{model} without drafts", topics)))
    return written


# SPEED-Bench


def counted_lengths(turn: Turn) -> list[int]:
    """A turn's steps as specdec_bench counts them: without the prefill's, and without the last one, which the end of
    sequence cuts; [1] when nothing is left. (Ours are in no order where a server tells a histogram: then a step of
    the shortest length stands for the last one.)"""
    return turn.lengths[:-1] or [1]


def responses(outcome: Outcome) -> list[dict[str, Any]]:
    """Lines of ``specbench_responses.jsonl``, of the last pass with drafts."""
    passed = outcome.on[-1]
    lines = []
    for index, one in enumerate(outcome.planned):
        turns = turns_of(passed, index)
        answers = [{"index": 0, "turns": [turn.text for turn in turns]}]
        lines.append(
            {
                "question_id": one.conversation.key,
                "category": one.conversation.category,
                "turns": list(one.conversation.turns[: len(turns)]),
                "acceptance_lengths": [length for turn in turns for length in counted_lengths(turn)],
                "choices": answers,
                "raw_choices": answers,
            }
        )
    return lines


def acceptance_rate(outcome: Outcome) -> dict[str, Any]:
    """One entry of ``acceptance_rate.json``. Rates by length: conditional k is P(L >= k) / P(L >= k - 1), joint k their
    product, so both begin with 1 at k = 1."""
    lines = [line for line in responses(outcome) if line["choices"][0]["turns"]]
    requests = {line["question_id"]: _mean(line["acceptance_lengths"]) for line in lines}
    categories: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        categories[line["category"]].append(requests[line["question_id"]])
    histogram = Counter(length for line in lines for length in line["acceptance_lengths"])
    at_least = [
        sum(count for length, count in histogram.items() if length >= k)
        for k in range(1, max(histogram, default=0) + 1)
    ]
    total = at_least[0] if at_least else 0
    return {
        "Request_AL": requests,
        "Category_AL": {name: _mean(values) for name, values in sorted(categories.items())},
        "Average_AL": _mean(list(requests.values())),
        "Acceptance_Length_Histogram": dict(sorted(histogram.items())),
        "Conditional_Acceptance_Rate": {
            k + 1: count / (at_least[k - 1] if k else total) for k, count in enumerate(at_least)
        },
        "Joint_Acceptance_Rate": {k + 1: count / total for k, count in enumerate(at_least)},
    }


def timing_of(outcome: Outcome) -> dict[str, Any]:
    """One entry of ``timing.json``, of the passes with drafts; one device."""
    found = timing(outcome.on)
    tokens = [turn.tokens for passed in outcome.on for turn in passed.turns.values()]
    rate = sum(found.output_rates) / max(1, len(found.output_rates))
    statistics = {
        "E2E Request Time": found.e2e,
        "TTFT Time": found.ttft,
        "Request Generation Tokens Per Second": found.user_rate,
    }
    return {
        "Output TPS": rate,
        "Output TPS/gpu": rate,
        **{name: _statistics(values) for name, values in statistics.items() if values is not None},
        "Number of Output Tokens": {"mean": f"{_mean(tokens):.4f}", "min": f"{min(tokens):.4f}",
                                    "max": f"{max(tokens):.4f}"},
    }  # fmt: skip


def write_speed_bench(file: Path, outcomes: Sequence[Outcome]) -> list[Path]:
    """Responses of each point (``file``, numbered where there are several) and, beside it, one list over all points of
    acceptance and of times, as specdec_bench appends its runs; gives what was written."""
    written = []
    for number, outcome in enumerate(outcomes):
        name = file if len(outcomes) == 1 else file.with_name(f"{file.stem}.{number + 1}{file.suffix}")
        written.append(_write_lines(name, responses(outcome)))
    runs = [{"configuration": f"{one.split}, {one.point.name}"} for one in outcomes]
    for kind, values in (
        ("acceptance_rate", [acceptance_rate(one) for one in outcomes]),
        ("timing", [timing_of(one) for one in outcomes]),
    ):
        path = file.with_name(f"{file.stem}.{kind}.json")
        entries = [{**run, **value} for run, value in zip(runs, values, strict=True)]
        path.write_text(json.dumps(entries, indent=4, ensure_ascii=False) + "\n")
        written.append(path)
    return written


def _statistics(values: Spread) -> dict[str, Any]:
    """As specdec_bench writes them: texts with four decimals."""
    quantiles = {"0.25": values.q1, "0.5": values.median, "0.75": values.q3}
    return {
        **{name: f"{getattr(values, name):.4f}" for name in ("min", "max", "mean", "std")},
        "quantiles": {name: f"{value:.4f}" for name, value in quantiles.items()},
    }


def _write_lines(file: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return file


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
