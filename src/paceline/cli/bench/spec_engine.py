"""``paceline bench spec`` in an engine of its own: sets, Spec-Bench, SPEED-Bench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from paceline.bench.prompts import DataError
from paceline.bench.sections import Cell
from paceline.bench.speculation.answer_files import write_spec_bench, write_speed_bench
from paceline.bench.speculation.engine_runner import EngineRunner
from paceline.bench.speculation.methods import SPEC_BENCH
from paceline.bench.speculation.point_report import errors as point_errors
from paceline.bench.speculation.point_report import point_report
from paceline.bench.speculation.points import PointBench, PointSettings
from paceline.bench.speculation.run import EngineSession, Settings, SpeculationBench, engine_options
from paceline.bench.speculation.sets_report import errors, sets_report
from paceline.bench.speculation.speed_bench.sentence_model import open_embedder
from paceline.bench.speculation.speed_bench.splits import SplitWishes, make_splits
from paceline.bench.speculation.workloads import BUILT_IN_SETS, DEFAULT_SETS, NAMED, Workload, rows_of
from paceline.cli.bench import options
from paceline.cli.bench.spec_wishes import Wishes, progress, tell_problems
from paceline.speculation.options import AUTO, OFF, SpeculationOptions


def measure_sets(wishes: Wishes) -> Sequence[str]:
    """Sets, Spec-Bench's among them, at each load; the errors that were found."""
    plan = wishes.plan
    settings = Settings(
        loads=tuple(plan.loads),
        prompts=plan.prompts,
        rounds=plan.rounds,
        max_tokens=plan.max_tokens,
        temperature=plan.temperatures[0],
        seed=wishes.seed,
        adapter=None if wishes.adapter is None else wishes.adapter.name,
    )
    chosen = workloads(wishes)
    bench = SpeculationBench(open_session(wishes, plan.draft_lengths[0]), settings, wishes.data, say=progress)
    named = wishes.sets or wishes.rows or wishes.method == SPEC_BENCH
    # A folder of one's own texts has none of the sets: unless one was named, those without data do.
    bench.run(chosen, () if named else [NAMED[name] for name in BUILT_IN_SETS])
    wishes.publish(sets_report(bench, options.command_line(), plan.title, plan.prefix_cache))
    write_answers(wishes, bench)
    return tell_set_problems(bench)


def open_session(wishes: Wishes, max_draft: int | None = None) -> EngineSession:
    plan = wishes.plan
    speculation = speculation_options(wishes, max_draft)
    wanted = engine_options(
        wishes.model, plan.loads, wishes.backend, wishes.threads, plan.prefix_cache, speculation, wishes.adapter
    )
    return EngineSession(wanted)


def workloads(wishes: Wishes) -> list[Workload]:
    """The sets that are wanted. Raises ``BadParameter`` for an unknown name."""
    unknown = sorted(set(wishes.sets or ()) - set(NAMED))
    if unknown:
        raise typer.BadParameter(f"no set {', '.join(unknown)}; there are {', '.join(NAMED)}", param_hint="--set")
    own = [] if wishes.rows is None else [rows_of(wishes.rows)]
    if wishes.sets or own:
        return [*own, *(NAMED[name] for name in dict.fromkeys(wishes.sets or ()))]
    if wishes.method == SPEC_BENCH:
        return [NAMED["spec_bench"]]
    return [NAMED[name] for name in (BUILT_IN_SETS if wishes.data is None else DEFAULT_SETS)]


def speculation_options(wishes: Wishes, max_draft: int | None) -> SpeculationOptions:
    names = tuple(name.strip() for name in wishes.speculate.split(",") if name.strip())
    return SpeculationOptions(
        speculate=wishes.speculate if wishes.speculate in (AUTO, OFF) else names,
        draft_model=wishes.draft_model or None,
        speculator=wishes.speculator or None,
        max_draft=max_draft,
    )


def tell_set_problems(bench: SpeculationBench) -> list[str]:
    """Tells what differs and what cannot be; gives what makes the exit status 1."""
    greedy = bench.settings.temperature == 0
    differences = [text for measurement in bench.measurements for text in measurement.differences()]
    miscounts = [text for measurement in bench.measurements for text in measurement.miscounts()]
    if greedy:
        tell_problems("ERROR: greedy texts differ", differences)
    else:
        tell_problems("sampled texts differ (drawn drafts may change them)", differences, error=False)
    tell_problems("ERROR: the engine's counters are wrong", miscounts)
    return errors(bench.measurements, greedy)


def write_answers(wishes: Wishes, bench: SpeculationBench) -> None:
    """Spec-Bench's files, of the first round."""
    if wishes.answers is None:
        return
    measurement = bench.measurements[0]
    questions = (wishes.data or Path()) / NAMED["spec_bench"].file
    model = bench.session.ready.model
    tell_files(
        write_spec_bench(wishes.answers, measurement.planned, measurement.off[0], measurement.on[0], model, questions)
    )


def measure_points(wishes: Wishes) -> Sequence[str]:
    """SPEED-Bench's splits at all points; the errors that were found."""
    plan, data = wishes.plan, need_data(wishes)
    session = open_session(wishes)
    runner = EngineRunner(session, None if wishes.adapter is None else wishes.adapter.name)
    length = session.engine.context_length
    splits = make_splits(data, split_wishes(wishes), runner, length, open_embedder, progress)
    bench = PointBench(runner, point_settings(wishes), say=progress)
    bench.run(splits.plans)
    shown: dict[str, Cell] = {
        "model": session.ready.model,
        "backend": session.ready.backend,
        "drafters": ", ".join(session.ready.drafters) or "none, so both are plain decoding",
        **method_settings(wishes, splits.how),
        "prefix cache": "on" if plan.prefix_cache else "off",
        "before each pass": session.way,
    }
    notes = [*splits.notes, *([NO_FIXED_LENGTH] if any(plan.draft_lengths) else [])]
    report = point_report(bench, plan.title, options.command_line(), shown, notes, runner.calibration, published=True)
    wishes.publish(report)
    if wishes.answers is not None:
        tell_files(write_speed_bench(wishes.answers, bench.outcomes))
    return tell_point_problems(bench)


NO_FIXED_LENGTH = (
    "a draft length is the most that Paceline drafts; in each step it verifies only what it expects to pay, which may "
    "be nothing: engines in published runs draft the full length in every step"
)


def need_data(wishes: Wishes) -> Path:
    if wishes.data is None:
        raise DataError(f"--method {wishes.method} needs prompts of a data folder: give --data or PACELINE_BENCH_DATA")
    return wishes.data


def split_wishes(wishes: Wishes) -> SplitWishes:
    plan = wishes.plan
    return SplitWishes(wishes.splits, wishes.lengths, plan.prompts, wishes.seed, plan.max_tokens)


def point_settings(wishes: Wishes) -> PointSettings:
    plan = wishes.plan
    return PointSettings(plan.loads, plan.temperatures, plan.draft_lengths, plan.max_tokens, plan.rounds)


def method_settings(wishes: Wishes, how: str = "") -> dict[str, Any]:
    """What the head of a report says about the method."""
    plan = wishes.plan
    chosen = {"prompts": how} if how else {}
    return {
        "prompts from": str(wishes.data or "a grammar"),
        **chosen,
        "rounds": plan.rounds,
        "max_tokens": plan.max_tokens,
        "seed": wishes.seed,
    }


def tell_point_problems(bench: PointBench) -> list[str]:
    found = point_errors(bench)
    tell_problems("ERROR: greedy texts differ, or steps are miscounted", found)
    return found


def tell_files(files: Sequence[Path]) -> None:
    typer.echo(f"answers written to {', '.join(map(str, files))}", err=True)
