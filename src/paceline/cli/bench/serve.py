"""``paceline bench serve``: load on one server."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli.bench import load, options


def serve(
    model: options.Model = "",
    url: Annotated[
        str,
        typer.Option(help="A server that runs, as http://HOST:PORT#MODEL. Default: paceline serve, started here."),
    ] = "",
    serve_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Option of the paceline serve that is started here; repeat it."),
    ] = None,
    threads: options.Threads = None,
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
    """Press a server with requests at rising rates, and see what becomes of latency and throughput.

    The load comes from a process of its own: open loops (Poisson arrivals), closed loops (--concurrency), or a trace.
    Exit status: 1 when the server failed on the way, 130 after Ctrl-C; what was measured until then is shown.
    """
    from paceline.bench.load.lineup import TargetSpecError, parse_adapters
    from paceline.bench.load.serve_report import serve_report

    if url and (model or serve_option):
        raise typer.BadParameter("give a MODEL to start here (with --serve-option), or --url, not both")
    wish = load.Wish(
        scenario, rows, rate, concurrency, trace, speedup, limit, trace_start, max_tokens, data, quick, load.RATES
    )
    with options.errors_in_one_line():
        settings = load.settings(
            quick=quick, repeats=repeats, duration=duration, requests=requests, process=arrivals, timeout=timeout,
            drain=drain, warm_ups=warm_up, until_saturated=until_saturated, late_limit=late_limit, goodput=goodput,
            dollars_per_hour=dollars_per_hour, temperature=temperature, ignore_eos=ignore_eos, seed=seed, api=api,
        )  # fmt: skip
        adapters = parse_adapters(adapter or ())
        lineup = load.lineup(model, threads, adapters, api, api_key)
        workloads = load.workloads(wish, settings, list(adapters))
        if url:
            address, _, name = url.partition("#")
            target = lineup.remote(address, address, name)
        else:
            try:
                target = lineup.target(":".join(["paceline", *(serve_option or ())]))
            except TargetSpecError as error:
                raise TargetSpecError(str(error).replace("paceline:", "--serve-option ", 1)) from error
        sweep = load.run([target], workloads, settings, records)
    load.finish(sweep, serve_report(sweep, load.command_line()), json_file, csv_file, html_file)
