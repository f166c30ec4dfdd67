"""``paceline bench kernel``: single operations against the machine's ceilings."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli.bench import options

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 350)
ATTENTION_ROWS = (1, 2, 4, 8, 16, 32)
CONTEXTS = (128, 512, 2048, 8192)
PREFILLS = (128, 350, 512)


def kernel(
    model: options.Model = "",
    threads: options.Threads = None,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    rows: Annotated[
        list[int] | None, typer.Option("--rows", min=1, help="Rows of the products; repeat it. Default: 1 to 350.")
    ] = None,
    attention_rows: Annotated[
        list[int] | None,
        typer.Option("--attention-rows", min=1, help="Rows of attention; repeat it. Default: 1 to 32."),
    ] = None,
    context: Annotated[
        list[int] | None,
        typer.Option("--context", min=1, help="Tokens before attention's rows; repeat it. Default: 128 to 8192."),
    ] = None,
    prefill: Annotated[
        list[int] | None, typer.Option("--prefill", min=1, help="Prompts whose attention is measured; repeat it.")
    ] = None,
    rounds: options.Rounds = 5,
    json_file: options.Json = None,
    csv_file: options.Csv = None,
    html_file: options.Html = None,
) -> None:
    """Time matrix products by rows and attention by rows and context, against memory bandwidth and multiply rate."""
    from paceline.bench.progress import shown
    from paceline.bench.publish import publish
    from paceline.bench.roofline.kernel_report import kernel_report
    from paceline.bench.roofline.kernel_suite import Wishes, open_bench
    from paceline.models.sources import resolve_model

    wishes = Wishes(rows or ROWS, attention_rows or ATTENTION_ROWS, context or CONTEXTS, prefill or PREFILLS)
    with options.errors_in_one_line():
        name = resolve_model(model).name
        bench = open_bench(model, wishes, backend=backend, threads=threads)
        with shown() as progress:
            bench.run(rounds, progress)
        report = kernel_report(bench, name, rounds, options.command_line())
        publish(report, json=json_file, csv=csv_file, html=html_file)
