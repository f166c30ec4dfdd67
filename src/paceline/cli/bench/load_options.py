"""Options about load, which ``bench serve`` and ``bench compare`` have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from paceline.cli.bench import options

_REQUESTS = "Requests"
_LOAD = "Load"
_MEASURING = "Measuring"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What is asked, how hard, and how it is measured; None where a command has its own default."""

    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", help="preference, ner or qa; repeat it. Default: all.", rich_help_panel=_REQUESTS),
    ] = None
    rows: Annotated[
        list[Path] | None,
        typer.Option(
            "--rows",
            exists=True,
            dir_okay=False,
            help='JSON lines of one\'s own, with "messages" (as for paceline train) or "prompt"; repeat it.',
            rich_help_panel=_REQUESTS,
        ),
    ] = None
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="NAME=FOLDER",
            help="Measure also with requests spread evenly over this adapter, further ones (repeat it) and the base "
            "model. The name alone for a server given by its URL.",
            rich_help_panel=_REQUESTS,
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer. Default: the scenario's; 128 for --rows.", rich_help_panel=_REQUESTS),
    ] = None
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos/--natural-end",
            help="Answers of exactly the longest length, or ones that end by themselves.",
            rich_help_panel=_REQUESTS,
        ),
    ] = False
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0: greedy.", rich_help_panel=_REQUESTS)] = 0.0
    api: Annotated[
        Literal["auto", "chat", "completions"],
        typer.Option(help="auto: chat, or completions where a chat is refused.", rich_help_panel=_REQUESTS),
    ] = "auto"
    api_key: Annotated[
        str | None,
        typer.Option(envvar="PACELINE_API_KEY", help="Key of the servers given by URL.", rich_help_panel=_REQUESTS),
    ] = None
    rate: Annotated[
        list[str] | None,
        typer.Option("--rate", help="Arrivals a second; repeat it, or a list with commas.", rich_help_panel=_LOAD),
    ] = None
    concurrency: Annotated[
        list[str] | None,
        typer.Option(
            help="Closed loop: so many requests at a time; repeat it, or a list with commas.", rich_help_panel=_LOAD
        ),
    ] = None
    arrivals: Annotated[
        Literal["poisson", "constant"], typer.Option(help="How requests of a rate arrive.", rich_help_panel=_LOAD)
    ] = "poisson"
    duration: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds of arrivals at a point. Default: 20 (compare: 10).", rich_help_panel=_LOAD),
    ] = None
    requests: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Requests of a point; with --duration, whichever comes first. Default of a closed loop: 8 a place.",
            rich_help_panel=_LOAD,
        ),
    ] = None
    trace: Annotated[
        Path | None, typer.Option(help="Replay a trace (Azure, Mooncake or ServeGen).", rich_help_panel=_LOAD)
    ] = None
    speedup: Annotated[
        list[str] | None,
        typer.Option(
            help="Replay the trace so many times as fast; repeat it, or a list. Default: 1.", rich_help_panel=_LOAD
        ),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Replay the trace's first requests, however long that takes.", rich_help_panel=_LOAD),
    ] = None
    trace_start: Annotated[
        float, typer.Option(min=0.0, help="Begin the replay at this second of the trace.", rich_help_panel=_LOAD)
    ] = 0.0
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Default: 2; with --quick 1.", rich_help_panel=_MEASURING)
    ] = None
    warm_up: Annotated[
        int,
        typer.Option(min=0, help="Unmeasured requests before a scenario's first point.", rich_help_panel=_MEASURING),
    ] = 3
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a request may take.", rich_help_panel=_MEASURING)
    ] = 120.0
    drain: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Seconds for open requests after the last one was sent; then they are errors.",
            rich_help_panel=_MEASURING,
        ),
    ] = 60.0
    until_saturated: Annotated[
        bool,
        typer.Option(
            help="Skip higher rates once under 80% of arrivals are answered and TTFT P50 is over 10 s.",
            rich_help_panel=_MEASURING,
        ),
    ] = True
    goodput: Annotated[
        str, typer.Option(help="Latency target in ms, of ttft, tpot and e2e.", rich_help_panel=_MEASURING)
    ] = "ttft:500,tpot:50"
    dollars_per_hour: Annotated[
        float | None,
        typer.Option(min=0.0, help="Price of the machine, for $ a million tokens.", rich_help_panel=_MEASURING),
    ] = None
    late_limit: Annotated[
        float, typer.Option(min=0.1, help="A client later than this (ms, P99) is INVALID.", rich_help_panel=_MEASURING)
    ] = 10.0
    quick: Annotated[
        bool, typer.Option("--quick", help="Two rates, 5 s each, once: a first look.", rich_help_panel=_MEASURING)
    ] = False
    seed: Annotated[int, typer.Option(help="Draws arrivals, and the order of texts.", rich_help_panel=_MEASURING)] = 0
    data: options.Data = None
    records: Annotated[
        Path | None,
        typer.Option(
            callback=options.writable,
            help="Also write every request with all its times, as JSON lines.",
            rich_help_panel=_MEASURING,
        ),
    ] = None
    json_file: options.Json = None
    csv_file: options.Csv = None
    html_file: options.Html = None


def with_load_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the options of ``LoadOptions`` beside its own ones, and gets them as its first argument.

    What typer reads of a function is its signature, so that is put together here: each option stands in one place.
    """
    own = get_type_hints(command, include_extras=True)
    shared = get_type_hints(LoadOptions, include_extras=True)
    _, *others = inspect.signature(command).parameters.values()

    @functools.wraps(command)
    def run(**given: Any) -> None:
        load = LoadOptions(**{field.name: given.pop(field.name) for field in fields(LoadOptions)})
        command(load, **given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [other.replace(kind=keyword, annotation=own[other.name]) for other in others]
    parameters += [
        inspect.Parameter(field.name, keyword, default=field.default, annotation=shared[field.name])
        for field in fields(LoadOptions)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # type: ignore[attr-defined]
    return run
