"""``paceline bench step``: step times against memory bandwidth."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli.bench import options


def step(
    model: options.Model = "",
    threads: options.Threads = None,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    rows: Annotated[list[int] | None, typer.Option("--rows", min=1, help="Rows a step; repeat it.")] = None,
    prefill: Annotated[list[int] | None, typer.Option("--prefill", min=1, help="Prompt length; repeat it.")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens before the decoded ones.")] = 128,
    rounds: options.Rounds = 15,
    steps: Annotated[int, typer.Option(min=1, help="Decode steps in a round.")] = 20,
    data: options.Data = None,
    json_file: options.Json = None,
) -> None:
    """Time decode steps by number of rows, against a plain read of the same bytes, and prefills by length."""
    from paceline.bench import step as bench_step
    from paceline.bench.machine import machine
    from paceline.bench.report import summary_json
    from paceline.bench.step_report import lines, step_table

    with options.errors_in_one_line():
        bench = bench_step.open_bench(model, backend=backend, threads=threads, context=context, data=data)
        bench.run(rows or [1, 2, 4, 8, 16], prefill or [32, 128, 350, 1024, 2048], rounds, steps)
    quiet, noise = bench.guard.verdict()
    typer.echo(f"backend {bench.backend}, {bench.threads} threads, {context} tokens of context, {rounds} rounds\n")
    typer.echo(step_table(lines(bench.values, bench.step_bytes)))
    typer.echo(f"\n{noise}")
    if json_file is not None:
        report = {
            "machine": machine(),
            "backend": bench.backend,
            "threads": bench.threads,
            "context": context,
            "step_bytes": bench.step_bytes,
            "quiet": quiet,
            "noise": noise,
            "seconds": {name: summary_json(values) for name, values in bench.values.items()},
        }
        options.write_json(json_file, report)
