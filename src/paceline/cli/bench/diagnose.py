"""``paceline bench diagnose``: what holds a running server back, and the one change most likely to help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.bench import options, server_key

if TYPE_CHECKING:
    from paceline.bench.sections import Cell


def diagnose(
    url: Annotated[str, typer.Argument(help="The server, for example http://127.0.0.1:8000.")],
    watch: Annotated[
        float, typer.Option(min=1.0, help="Seconds to look on, best while load flows: 30 or more say more.")
    ] = 5.0,
    probes: Annotated[bool, typer.Option(help="Also send a few requests, after looking on.")] = True,
    served_model: Annotated[str | None, typer.Option(help="Model to ask for. Default: the first.")] = None,
    api_key: server_key.ServerKey = "",
    json_file: options.Json = None,
    csv_file: options.Csv = None,
    html_file: options.Html = None,
) -> None:
    """Look at a running server and say what is binding: memory, prefill, decode, the queue, or the client.

    It reads the server's /metrics (Paceline's or vLLM's names) over a while, then sends a few short requests. On the
    server's own machine it also looks at processors and memory.
    """
    from paceline.bench.diagnose.decide import diagnose as decide
    from paceline.bench.diagnose.report import diagnosis_report
    from paceline.bench.diagnose.run import Look
    from paceline.bench.endpoint import endpoint_of
    from paceline.bench.publish import publish

    with options.errors_in_one_line():
        endpoint = endpoint_of(url, server_key.first_key(api_key))
        look = Look(endpoint, watch, served_model, probes, say=lambda text: typer.echo(text, err=True))
        seen = look.run()
    names = {"paceline": "Paceline", "vllm": "vLLM's metrics", "other": "no known metrics"}
    head: dict[str, Cell] = {"server": endpoint.url, "kind": names[seen.kind], "watched [s]": watch}
    report = diagnosis_report(decide(seen), seen, options.command_line(), head, look.notes)
    with options.errors_in_one_line():
        publish(report, json=json_file, csv=csv_file, html=html_file)
