"""``paceline bench serve``: load on one server."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli.bench import load as ways
from paceline.cli.bench import options
from paceline.cli.bench.load_options import LoadOptions, with_load_options

RATES = "1,2,4,8,12,16,20"
SECONDS = 20.0  # of arrivals at a point


@with_load_options
def serve(
    load: LoadOptions,
    model: options.Model = "",
    url: Annotated[
        str, typer.Option(help="A server that runs, as http://HOST:PORT#MODEL. Default: paceline serve, started here.")
    ] = "",
    serve_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Option of the paceline serve that is started here; repeat it."),
    ] = None,
    threads: options.Threads = None,
) -> None:
    """Press a server with requests at rising rates, and see what becomes of latency and throughput.

    The load comes from a process of its own: open loops (Poisson arrivals), closed loops (--concurrency), or a trace.
    Exit status: 1 when the server failed on the way, 130 after Ctrl-C; what was measured until then is shown.
    """
    from paceline.bench.load.serve_report import serve_report

    if url and (model or serve_option):
        raise typer.BadParameter("give a MODEL to start here (with --serve-option), or --url, not both")
    with options.errors_in_one_line():
        settings = ways.settings_of(load, SECONDS)
        lineup = ways.lineup_of(load, model, threads)
        workloads = ways.workloads_of(load, settings, list(lineup.adapters), RATES)
        if url:
            address, _, name = url.partition("#")
            target = lineup.remote(address, address, name)
        else:
            target = lineup.own(serve_option or ())
        sweep = ways.run([target], workloads, settings, load)
    ways.finish(sweep, serve_report(sweep, options.command_line()), load)
