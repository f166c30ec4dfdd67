"""``paceline bench quality``: accuracy under different settings, and whether these change answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paceline.cli.bench import options, server_key

if TYPE_CHECKING:
    from paceline.bench.quality.run import Variant
    from paceline.bench.quality.settings import Setting
    from paceline.bench.sections import Cell

GENERATED = "a generator (no --data), so scores say little about real questions"


def quality(
    model: options.Model = "",
    url: Annotated[
        list[str] | None,
        typer.Option(help="A running server instead of an engine of its own; repeat it to compare several."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="base, or KEY=VALUE with commas; repeat it. Keys: speculation (off, auto, drafters joined by +), "
            "prefix-cache, threads, max-running, max-rows, backend, kv-cache-dtype, model (the same model in another "
            "format). Default: base, speculation=off, prefix-cache=off; with --url base.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="gsm8k, mmlu_stem, mmlu_stem_choice, ner; without --data sums, copy, pick, pick_choice. Repeat it. "
            "Default: all."
        ),
    ] = None,
    rows_per_task: Annotated[int, typer.Option(min=1, help="Questions of each task.")] = 50,
    seed: Annotated[int, typer.Option(help="Chooses the questions.")] = 0,
    must_agree: Annotated[
        bool, typer.Option("--must-agree", help="All settings must give identical answers, whatever they are.")
    ] = False,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    threads: options.Threads = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests open at a time, with --url.")] = 8,
    served_model: Annotated[str | None, typer.Option(help="Model to ask for, with --url. Default: the first.")] = None,
    api_key: server_key.ServerKey = "",
    data: options.Data = None,
    json_file: options.Json = None,
    csv_file: options.Csv = None,
    html_file: options.Html = None,
) -> None:
    """Answer the same questions under several settings: scores, their differences, and which answers changed.

    --data names a folder with gsm8k, mmlu_stem and conllpp; without it questions are generated.

    The exit status is 1 when settings that promise identical answers (speculation, prefix cache, threads, batch size)
    gave different ones.
    """
    from paceline.bench.publish import publish
    from paceline.bench.quality.report import broken_promises, quality_report
    from paceline.bench.quality.run import QualityBench
    from paceline.bench.quality.sets import load_tasks
    from paceline.bench.quality.settings import BASE, DEFAULT_SETTINGS, parse_settings
    from paceline.errors import InvalidRequestError

    with options.errors_in_one_line():
        if url and model:
            raise InvalidRequestError("MODEL and --url exclude each other: a server has its model already")
        settings = parse_settings(setting or ([BASE] if url else DEFAULT_SETTINGS))
        tasks = load_tasks(data, task or (), rows_per_task, seed)
        if url:
            variants = _servers(url, settings, served_model, server_key.first_key(api_key), concurrency)
        else:
            variants = _engines(model, settings, {"backend": backend, "threads": threads})
        bench = QualityBench(tasks, variants, must_agree, say=lambda text: typer.echo(text, err=True))
        bench.run()
    source = str(data) if data else GENERATED
    head: dict[str, Cell] = {"model": next(iter(bench.descriptions.values())), "questions from": source, "seed": seed}
    report = quality_report(bench, options.command_line(), head)
    with options.errors_in_one_line():
        publish(report, json=json_file, csv=csv_file, html=html_file)
    if broken_promises(bench.agreements()):
        raise typer.Exit(1)


def _engines(model: str, settings: Sequence[Setting], common: dict[str, Any]) -> list[Variant]:
    """A variant for each setting, with an engine in this process."""
    from functools import partial

    from paceline.bench.quality.answerers import EngineAnswerer
    from paceline.bench.quality.run import Variant

    variants = []
    for one in settings:
        fields = {**common, **one.engine_options()}
        chosen = fields.pop("model", model)
        variants.append(Variant(one.name, one.numerics, partial(EngineAnswerer, chosen, fields)))
    return variants


def _servers(
    urls: Sequence[str], settings: Sequence[Setting], model: str | None, api_key: str | None, concurrency: int
) -> list[Variant]:
    """A variant for each server and setting."""
    from functools import partial

    from paceline.bench.endpoint import endpoint_of
    from paceline.bench.quality.answerers import ServerAnswerer
    from paceline.bench.quality.run import Variant

    variants = []
    for address in dict.fromkeys(urls):
        endpoint = endpoint_of(address, api_key)
        for one in settings:
            opening = partial(ServerAnswerer, endpoint, model, one.request_fields(), concurrency)
            name = one.name if len(urls) == 1 else f"{address} {one.name}"
            variants.append(Variant(name, (("url", endpoint.url),), opening))
    return variants
