"""``paceline bench spec``: what drafts gain, and what they cost, by one of three methods, here or at a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.bench import options

_SETS, _SPEED_BENCH, _ENGINE, _SERVER = "Sets", "SPEED-Bench", "Engine", "A server"
_MANY = "Several with commas, or repeat it."


def spec(
    model: Annotated[str, typer.Argument(help="Folder, .gguf file, Hub id or alias; with --url its name there.")] = "",
    method: Annotated[str, typer.Option(help="sets, speed-bench or spec-bench: see docs/benchmarks.md.")] = "sets",
    quick: Annotated[bool, typer.Option("--quick", help="Few prompts and short answers: a look.")] = False,
    loads: Annotated[
        list[str] | None,
        typer.Option("--load", "--concurrency", help=f"Streams at a time. {_MANY} Default: 1,8,32; 32; 1, by method."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds, each without and with drafts. Default: 2 for sets, else 1.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of an answer. Default: 128, 4096, 1024, by method.")
    ] = None,
    temperature: Annotated[
        list[str] | None, typer.Option(help=f"0: greedy; then texts must be the same. {_MANY} Default: 0; 0,1; 0.")
    ] = None,
    draft_length: Annotated[
        list[str] | None,
        typer.Option(help=f"Most draft tokens of a step; auto: as the engine decides. {_MANY} Default: auto; 3; auto."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the prompts.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="PACELINE_BENCH_DATA",
            exists=True,
            file_okay=False,
            help="Folder with the prompt sets. Without one, sets are generated English, copied and continued.",
        ),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write the answers here, in the method's own form.")
    ] = None,
    json_file: options.Json = None,
    csv_file: options.Csv = None,
    html_file: options.Html = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Prompt set; repeat it. Default: edit, summarization, rag, ...", rich_help_panel=_SETS
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Prompts of one's own: chat rows as for paceline train.",
            rich_help_panel=_SETS,
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most prompts of a set. Default: 12 to 64, by load; Spec-Bench: all.", rich_help_panel=_SETS
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The same as --method spec-bench.", rich_help_panel=_SETS)
    ] = False,
    split: Annotated[
        list[str] | None,
        typer.Option(help=f"qualitative, throughput. {_MANY} Default: both.", rich_help_panel=_SPEED_BENCH),
    ] = None,
    prompts_per_category: Annotated[
        int | None,
        typer.Option(min=1, help="Default: 80; in the throughput split 32.", rich_help_panel=_SPEED_BENCH),
    ] = None,
    input_length: Annotated[
        list[str] | None,
        typer.Option(help=f"Of the throughput split. {_MANY} Default: 1k,2k,8k,16k,32k.", rich_help_panel=_SPEED_BENCH),
    ] = None,
    speculate: Annotated[
        str, typer.Option(help="auto, or drafters' names with commas.", rich_help_panel=_ENGINE)
    ] = "auto",
    draft_model: Annotated[
        str, typer.Option(help="A small model with the same vocabulary, for its drafter.", rich_help_panel=_ENGINE)
    ] = "",
    speculator: Annotated[
        str, typer.Option(help="Folder of a speculator; none: not the package's either.", rich_help_panel=_ENGINE)
    ] = "",
    adapter: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder of an adapter, which answers.", rich_help_panel=_ENGINE
        ),
    ] = None,
    prefix_cache: Annotated[
        bool | None,
        typer.Option(
            "--prefix-cache/--no-prefix-cache",
            help="Keep prefixes within a pass. Default: yes, for SPEED-Bench no.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.", rich_help_panel=_ENGINE)] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Compute threads. Default: all usable cores.", rich_help_panel=_ENGINE)
    ] = None,
    url: Annotated[
        str, typer.Option(help="Measure the server there instead of an engine here.", rich_help_panel=_SERVER)
    ] = "",
    baseline_url: Annotated[
        str,
        typer.Option(
            help="The same model without drafts; Paceline needs none, its requests can do without.",
            rich_help_panel=_SERVER,
        ),
    ] = "",
    api_key: Annotated[
        str, typer.Option(envvar="PACELINE_API_KEY", help="Of these servers.", rich_help_panel=_SERVER)
    ] = "",
) -> None:
    """Measure with drafts and without, in turns: speed, acceptance, cost, and that greedy texts stay the same.

    The exit status is 1 when a greedy answer differs with drafts on, or the engine miscounts.
    """
    from paceline.cli.bench.spec_wishes import Wishes

    wishes = Wishes(
        model=model,
        method="spec-bench" if full else method,
        quick=quick,
        loads=loads,
        rounds=rounds,
        max_tokens=max_tokens,
        temperature=temperature,
        draft_length=draft_length,
        seed=seed,
        data=data,
        answers=answers,
        json=json_file,
        csv=csv_file,
        html=html_file,
        sets=sets,
        rows=rows,
        prompts=prompts,
        split=split,
        prompts_per_category=prompts_per_category,
        input_length=input_length,
        speculate=speculate,
        draft_model=draft_model,
        speculator=speculator,
        adapter=adapter,
        prefix_cache=prefix_cache,
        backend=backend,
        threads=threads,
        url=url,
        baseline_url=baseline_url,
        api_key=api_key,
    )
    wishes.check()
    if wishes.url:
        from paceline.cli.bench.spec_server import measure
    elif wishes.method == "speed-bench":
        from paceline.cli.bench.spec_engine import measure_points as measure
    else:
        from paceline.cli.bench.spec_engine import measure_sets as measure
    with options.errors_in_one_line():
        errors = measure(wishes)
    if errors:
        raise typer.Exit(1)
