"""``paceline bench spec``: what drafts gain, and what they cost, on the same prompts in the same engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paceline.cli.bench import options

if TYPE_CHECKING:
    from paceline.bench.speculation.run import SpeculationBench
    from paceline.bench.speculation.workloads import Workload
    from paceline.speculation.options import SpeculationOptions

FULL_TOKENS = 1024  # of Spec-Bench's answers
SHOWN_PROBLEMS = 10


def spec(
    model: Annotated[str, typer.Argument(help="Folder, .gguf file, Hub id or alias. Default: the default model.")] = "",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Prompt set; repeat it. Default: edit, summarization, rag, ...")
    ] = None,
    loads: Annotated[
        list[int] | None, typer.Option("--load", min=1, help="Streams at a time; repeat it. Default: 1, 8, 32.")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Most prompts of a set. Default: 12 to 64, by load; with --full all.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds, each without and with drafts. Default: 2; with --full 1.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of an answer. Default: 128; with --full 1024.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy; then texts must be the same.")] = 0.0,
    full: Annotated[bool, typer.Option("--full", help="All of Spec-Bench, one stream, as published results.")] = False,
    speculate: Annotated[str, typer.Option(help="auto, or drafters' names with commas.")] = "auto",
    draft_model: Annotated[str, typer.Option(help="A small model with the same vocabulary, for its drafter.")] = "",
    speculator: Annotated[str, typer.Option(help="Folder of a speculator; none: not the package's either.")] = "",
    adapter: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of an adapter, which answers.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Prompts of one's own: chat rows as for paceline train."),
    ] = None,
    prefix_cache: Annotated[bool, typer.Option(help="Keep prefixes within a pass (SPEED-Bench: no).")] = True,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads. Default: all usable cores.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the prompts.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="PACELINE_BENCH_DATA",
            exists=True,
            file_okay=False,
            help="Folder with the prompt sets. Default: generated English, copied and continued.",
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all values to this file.")] = None,
) -> None:
    """Measure with drafts and without, in turns: speed, acceptance, cost, and that greedy texts stay the same.

    The exit status is 1 when a greedy answer differs with drafts on, or the engine miscounts.
    """
    from paceline.bench.speculation.run import EngineSession, Settings, SpeculationBench, engine_options
    from paceline.bench.speculation.workloads import BUILT_IN_SETS, NAMED

    settings = Settings(
        loads=tuple(loads or ((1,) if full else (1, 8, 32))),
        prompts=prompts if prompts is not None or not full else 0,
        rounds=rounds or (1 if full else 2),
        max_tokens=max_tokens or (FULL_TOKENS if full else 128),
        temperature=temperature,
        seed=seed,
        adapter=None if adapter is None else adapter.name,
    )
    with options.errors_in_one_line():
        chosen = _workloads(sets, data, full, rows)
        wishes = _speculation(speculate, draft_model, speculator)
        wanted = engine_options(model, settings.loads, backend, threads, prefix_cache, wishes, adapter)
        bench = SpeculationBench(EngineSession(wanted), settings, data, say=lambda text: typer.echo(text, err=True))
        # A folder of one's own texts has none of the sets: unless one was named, those without data do.
        bench.run(chosen, () if sets or full or rows else [NAMED[name] for name in BUILT_IN_SETS])
    errors = _report(bench, prefix_cache, json_file)
    if errors:
        raise typer.Exit(1)


def _workloads(names: list[str] | None, data: Path | None, full: bool, rows: Path | None) -> list[Workload]:
    from paceline.bench.speculation.workloads import BUILT_IN_SETS, DEFAULT_SETS, NAMED, rows_of

    unknown = sorted(set(names or ()) - set(NAMED))
    if unknown:
        raise typer.BadParameter(f"no set {', '.join(unknown)}; there are {', '.join(NAMED)}", param_hint="--set")
    own = [] if rows is None else [rows_of(rows)]
    if names or own:
        return [*own, *(NAMED[name] for name in dict.fromkeys(names or ()))]
    if full:
        return [NAMED["spec_bench"]]
    return [NAMED[name] for name in (BUILT_IN_SETS if data is None else DEFAULT_SETS)]


def _speculation(speculate: str, draft_model: str, speculator: str) -> SpeculationOptions:
    from paceline.speculation.options import AUTO, OFF, SpeculationOptions

    names = tuple(name.strip() for name in speculate.split(",") if name.strip())
    wish = speculate if speculate in (AUTO, OFF) else names
    return SpeculationOptions(speculate=wish, draft_model=draft_model or None, speculator=speculator or None)


def _report(bench: SpeculationBench, prefix_cache: bool, json_file: Path | None) -> list[str]:
    """Prints the tables; the errors that were found."""
    from paceline.bench.speculation import report as tables
    from paceline.bench.speculation.goals import judge_all

    settings, ready, measurements = bench.settings, bench.session.ready, bench.measurements
    greedy = settings.temperature == 0
    verdicts = judge_all(measurements) if greedy else []
    quiet, noise = bench.guard.verdict()
    drafters = ", ".join(ready.drafters) or "none, so both are plain decoding"
    prompts = "chat template" if bench.session.tokenizer.has_chat_template else "plain text (no chat template)"
    typer.echo(
        f"\n{ready.model}, backend {ready.backend}; drafters: {drafters}; prompts from "
        f"{bench.data or 'a grammar'} with {prompts}\n"
        f"{settings.rounds} rounds, at most {settings.max_tokens} tokens an answer, temperature "
        f"{settings.temperature:g}, prefix cache {'on' if prefix_cache else 'off'}; before each pass "
        f"{bench.session.way}\n"
    )
    named = [
        ("Speed", tables.speed_table(measurements)),
        ("Acceptance, with drafts on", tables.acceptance_table(measurements)),
        ("Drafters", tables.drafter_table(measurements)),
        ("Spec-Bench's figures, one stream; published: A100, 7B", tables.spec_bench_table(measurements)),
        ("Predicted and realised survival of draft tokens", tables.calibration_table(bench.calibration)),
        ("Predicted and realised time", tables.prediction_table(measurements)),
        ("Targets", tables.goal_table(verdicts) if verdicts else ""),
    ]
    for title, table in named:
        if table:
            typer.echo(f"### {title}\n\n{table}\n")
    if bench.calibration.error is not None:
        typer.echo(f"expected calibration error {bench.calibration.error:.3f}")
    for note in bench.notes:
        typer.echo(note)
    typer.echo(noise)
    differences = [text for measurement in measurements for text in measurement.differences()]
    miscounts = [text for measurement in measurements for text in measurement.miscounts()]
    _tell("sampled texts differ (drawn drafts may change them)", [] if greedy else differences)
    _tell("ERROR: greedy texts differ", differences if greedy else [])
    _tell("ERROR: the engine's counters are wrong", miscounts)
    errors = [*(differences if greedy else []), *miscounts]
    if json_file is not None:
        _write_json(json_file, bench, {"prefix_cache": prefix_cache, "quiet": quiet, "noise": noise, "errors": errors})
    return errors


def _tell(title: str, lines: list[str]) -> None:
    if lines:
        typer.echo(f"{title} ({len(lines)}):", err=title.startswith("ERROR"))
        for line in lines[:SHOWN_PROBLEMS]:
            typer.echo(f"  {line}", err=title.startswith("ERROR"))


def _write_json(path: Path, bench: SpeculationBench, more: dict[str, Any]) -> None:
    from dataclasses import asdict

    from paceline.bench.machine import machine
    from paceline.bench.speculation.goals import judge_all
    from paceline.bench.speculation.records import measurement_json, verdicts_json

    ready = bench.session.ready
    report = {
        "machine": machine(),
        "model": ready.model,
        "backend": ready.backend,
        "drafters": ready.drafters,
        "choices": {choice.name: choice.value for choice in ready.choices},
        "data": str(bench.data) if bench.data else None,
        "settings": asdict(bench.settings),
        "forgetting": bench.session.way,
        **more,
        "notes": bench.notes,
        "calibration": [entry._asdict() for entry in bench.calibration.bins()],
        "measurements": [measurement_json(measurement) for measurement in bench.measurements],
        "targets": verdicts_json(judge_all(bench.measurements)) if bench.settings.temperature == 0 else [],
    }
    options.write_json(path, report)
