"""``paceline bench spec --url``: any of the methods at a running server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from paceline.bench.client import event_loop
from paceline.bench.endpoint import endpoint_of
from paceline.bench.prompts import DataError
from paceline.bench.sections import Cell
from paceline.bench.speculation.answer_files import write_spec_bench, write_speed_bench
from paceline.bench.speculation.closed_loop import Planned
from paceline.bench.speculation.methods import SPEC_BENCH, SPEED_BENCH
from paceline.bench.speculation.point_report import point_report
from paceline.bench.speculation.points import PointBench, PointSettings
from paceline.bench.speculation.run import Settings
from paceline.bench.speculation.served.runner import ServerRunner
from paceline.bench.speculation.served.server import Server, open_server
from paceline.bench.speculation.speed_bench.sentence_model import open_embedder
from paceline.bench.speculation.speed_bench.splits import ROOM, make_splits
from paceline.bench.speculation.workloads import NAMED, load_workload
from paceline.cli.bench import options
from paceline.cli.bench.server_key import first_key
from paceline.cli.bench.spec_engine import (
    NO_FIXED_LENGTH,
    method_settings,
    need_data,
    point_settings,
    split_wishes,
    tell_files,
    tell_point_problems,
    workloads,
)
from paceline.cli.bench.spec_wishes import Wishes, progress

SEEN_BEFORE = (
    "points marked as asked before follow others with the same prompts: where a server remembers answers (Paceline's "
    "suffix drafter, vLLM's suffix method) it drafts copies of them; for clean figures measure one point and one "
    "round, and start the server anew for the next"
)
PREFIX_CACHE = "the server's prefix cache is on (SPEED-Bench: off), so times to the first token are not comparable"
NO_COUNTS = (
    "the server tells nothing of its verification steps (neither usage.speculation nor vllm:spec_decode_* in "
    "/metrics): there is no acceptance length"
)
NO_BASELINE = "without --baseline-url there is no speed-up: this server's requests cannot do without drafts"


def measure(wishes: Wishes) -> Sequence[str]:
    """Measures; the errors that were found. Raises ``PacelineError`` when the server cannot be measured."""
    key = first_key(wishes.api_key)
    server = open_server(endpoint_of(wishes.url, key), wishes.model)
    without = open_server(endpoint_of(wishes.baseline_url, key), wishes.model) if wishes.baseline_url else None
    settings = server_settings(wishes, server)
    runner = ServerRunner(server, without, event_loop)
    plans, notes, how = conversations(wishes, runner, server)
    bench = PointBench(runner, settings, say=progress)
    bench.run(plans)
    shown: dict[str, Cell] = {
        "server": server.endpoint.url,
        "without drafts": without.endpoint.url if without else "by request" if server.paceline else "not measured",
        "model": server.model,
        **method_settings(wishes, how),
    }
    notes += about_server(bench, server)
    published = wishes.method == SPEED_BENCH
    report = point_report(bench, wishes.plan.title, options.command_line(), shown, notes, published=published)
    wishes.publish(report)
    write_answers(wishes, bench, server.model)
    return tell_point_problems(bench)


def server_settings(wishes: Wishes, server: Server) -> PointSettings:
    """Only Paceline takes a draft length with each request; others have the one that they were started with."""
    settings = point_settings(wishes)
    if server.paceline:
        return settings
    if wishes.draft_length:
        raise typer.BadParameter(
            f"{server.endpoint.url} is no Paceline server: its draft length is what it was started with",
            param_hint="--draft-length",
        )
    return replace(settings, draft_lengths=(None,))


def conversations(
    wishes: Wishes, runner: ServerRunner, server: Server
) -> tuple[dict[str, list[Planned]], list[str], str]:
    """What is asked, by split or set; notes; and how prompts were chosen."""
    length = server.context_length
    if wishes.method == SPEED_BENCH:
        splits = make_splits(need_data(wishes), split_wishes(wishes), runner, length, open_embedder, progress)
        return splits.plans, splits.notes, splits.how
    plans: dict[str, list[Planned]] = {}
    notes: list[str] = []
    plan = wishes.plan
    most = Settings(loads=plan.loads, prompts=plan.prompts).prompts_for(max(plan.loads))
    for workload in workloads(wishes):
        try:
            found = load_workload(workload, wishes.data, wishes.seed)[:most]
        except DataError as error:
            notes.append(f"skipped {workload.name}: {error}")
            continue
        plans[workload.name], too_long = runner.plan(found, min(ROOM, plan.max_tokens))
        if too_long:
            notes.append(f"{workload.name}: left out {too_long} prompts that do not fit the context of {length}")
    if not any(plans.values()):
        raise DataError("; ".join(notes) or "there is nothing to measure")
    return {name: planned for name, planned in plans.items() if planned}, notes, ""


def about_server(bench: PointBench, server: Server) -> list[str]:
    """What should be known before a figure is quoted."""
    notes = []
    if not server.paceline and not server.counts_drafts:
        notes.append(NO_COUNTS)
    if not bench.runner.baseline:
        notes.append(NO_BASELINE)
    passes = [passed for outcome in bench.outcomes for passed in outcome.on]
    if any(outcome.asked_before for outcome in bench.outcomes):
        notes.append(SEEN_BEFORE)
    if any(passed.cached_tokens for passed in passes):
        notes.append(PREFIX_CACHE)
    if server.paceline and any(bench.settings.draft_lengths):
        notes.append(NO_FIXED_LENGTH)
    return notes


def write_answers(wishes: Wishes, bench: PointBench, model: str) -> None:
    if wishes.answers is None:
        return
    if wishes.method == SPEC_BENCH:
        outcome = bench.outcomes[0]
        questions = (wishes.data or Path()) / NAMED["spec_bench"].file
        off = outcome.off[0] if outcome.off else None
        tell_files(write_spec_bench(wishes.answers, outcome.planned, off, outcome.on[0], model, questions))
    else:
        tell_files(write_speed_bench(wishes.answers, bench.outcomes))
