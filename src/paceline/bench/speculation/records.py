"""Every value of a run, for the JSON report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from paceline.bench.report import summary_json
from paceline.bench.speculation.acceptance import Acceptance, acceptance
from paceline.bench.speculation.goals import Verdict
from paceline.bench.speculation.measurement import Measurement, spec_bench_lines
from paceline.bench.speculation.turns import Pass
from paceline.bench.statistics import Summary


def measurement_json(measurement: Measurement) -> dict[str, Any]:
    """One set at one load: results under the names of ``docs/benchmarks.md``, then every pass."""
    off, on = measurement.user_rates()
    record: dict[str, Any] = {
        "set": measurement.workload,
        "load": measurement.load,
        "prompts": len(measurement.planned),
        "keys": [planned.conversation.key for planned in measurement.planned],
        "speedup": _summary(measurement.speedup),
        "output_speedup": _summary(measurement.output_speedup),
        "full_speedup": _summary(measurement.full_speedup),
        "full_share": measurement.full_share,
        "drafting_share": measurement.drafting_share,
        "predicted_share": measurement.predicted_share,
        "believed_speedup": measurement.believed_speedup,
        "decisions": dict(measurement.decisions),
        "acceptance": acceptance_json(measurement),
        "differences": measurement.differences(),
        "off": [pass_json(passed) for passed in measurement.off],
        "on": [pass_json(passed) for passed in measurement.on],
    }
    if off:
        record |= {"user_rate_off": summary_json(off), "user_rate_on": summary_json(on)}
    if measurement.load == 1:
        record["spec_bench"] = [asdict(line) for line in spec_bench_lines(measurement)]
    return record


def acceptance_json(measurement: Measurement) -> dict[str, Any]:
    """Acceptance over all passes with drafts, and the macro mean of each category (SPEED-Bench's category AL)."""
    counts = measurement.acceptance()
    categories: dict[str, list[int]] = {}
    for index, planned in enumerate(measurement.planned):
        categories.setdefault(planned.conversation.category, []).append(index)
    by_category = {
        name: acceptance(t for p in measurement.on for key, t in p.turns.items() if key[0] in indices).macro
        for name, indices in categories.items()
    }
    return {**counts_json(counts), "macro_by_category": by_category}


def counts_json(counts: Acceptance) -> dict[str, Any]:
    """The counts, and what follows from them; means over requests only where these are known."""
    known = not counts.sums_only
    return {
        "macro": counts.macro if known else None,
        "micro": counts.micro,
        "macro_with_prefill": counts.macro_with_prefill if known else None,
        "micro_with_prefill": counts.micro_with_prefill if known else None,
        "histogram": dict(sorted(counts.lengths.items())),
        "joint": counts.joint,
        "conditional": counts.conditional,
        "rate": counts.rate,
        "steps": counts.steps,
        "drafted_steps": counts.drafted_steps,
        "drafted": dict(counts.drafted),
        "accepted": dict(counts.accepted),
    }


def pass_json(passed: Pass) -> dict[str, Any]:
    """One pass: totals, and each turn's lengths and times."""
    turns = [
        {
            "conversation": index,
            "turn": turn_number,
            "prompt_tokens": turn.prompt_tokens,
            "tokens": turn.tokens,
            "ttft": turn.ttft,
            "seconds": turn.seconds,
            "user_rate": turn.user_rate,
            "steps": len(turn.lengths),
        }
        for (index, turn_number), turn in sorted(passed.turns.items())
    ]
    return {
        "tokens": passed.tokens,
        "output_rate": passed.output_rate,
        "full_rate": passed.full_rate,
        "cut_short": passed.cut_short,
        "counters": passed.counters,
        "turns": turns,
    }


def verdicts_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [asdict(verdict) for verdict in verdicts]


def _summary(summary: Summary | None) -> dict[str, Any] | None:
    return None if summary is None else asdict(summary)
