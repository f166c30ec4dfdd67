"""``paceline bench step``: step times against memory bandwidth."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli.bench import options

ROWS = (1, 2, 4, 8, 16)
PREFILLS = (32, 128, 350, 1024, 2048)
CONTEXT = 128


def step(
    model: options.Model = "",
    threads: options.Threads = None,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    rows: Annotated[list[int] | None, typer.Option("--rows", min=1, help="Rows a step; repeat it.")] = None,
    prefill: Annotated[list[int] | None, typer.Option("--prefill", min=1, help="Prompt length; repeat it.")] = None,
    context: Annotated[
        list[int] | None,
        typer.Option("--context", min=1, help="Tokens before the decoded ones; repeat it. Default: 128."),
    ] = None,
    rounds: options.Rounds = 15,
    steps: Annotated[int, typer.Option(min=1, help="Decode steps in a round.")] = 20,
    data: options.Data = None,
    json_file: options.Json = None,
    csv_file: options.Csv = None,
    html_file: options.Html = None,
) -> None:
    """Time decode steps by number of rows, and prefills by length, against the least time that the machine needs."""
    from paceline.bench.progress import shown
    from paceline.bench.publish import publish
    from paceline.bench.step import answer_tokens, open_bench
    from paceline.bench.step_report import step_report
    from paceline.models.sources import resolve_model

    wanted, contexts = rows or list(ROWS), context or [CONTEXT]
    tokens = max(wanted) * (max(contexts) + answer_tokens(steps, max(wanted)))
    with options.errors_in_one_line():
        name = resolve_model(model).name
        bench = open_bench(model, backend=backend, threads=threads, contexts=contexts, cache_tokens=tokens, data=data)
        with shown() as progress:
            bench.run(wanted, prefill or list(PREFILLS), rounds, steps, progress)
        report = step_report(bench, name, rounds, options.command_line())
        publish(report, json=json_file, csv=csv_file, html=html_file)
