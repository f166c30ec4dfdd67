"""``paceline plan``: what a model will need and give on a machine, without loading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.bench import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paceline.bench.plan.machines import Machine
    from paceline.bench.plan.sizes import Format
    from paceline.models.configuration import Configuration

HERE = "here"


def plan(
    model: options.Model = "",
    gpu: Annotated[
        str, typer.Option(help="h100, h200, a100, l40s, ... (a wrong name lists all); here: this machine's, measured.")
    ] = "",
    cpu: Annotated[bool, typer.Option("--cpu", help="This machine's cores, measured in seconds. The default.")] = False,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that share the model.")] = 1,
    threads: options.Threads = None,
    qps: Annotated[float | None, typer.Option(help="Requests a second to serve. Default: one machine's.")] = None,
    tokens_in: Annotated[int, typer.Option("--in", min=1, help="Tokens of a prompt.")] = 350,
    tokens_out: Annotated[int, typer.Option("--out", min=1, help="Tokens of an answer.")] = 50,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Most requests at a time. Default: what fits; 256 on GPUs, 32 on CPUs.")
    ] = None,
    acceptance_length: Annotated[
        float, typer.Option(help="Tokens a step with drafts, a guess; `paceline bench spec` measures it.")
    ] = 2.0,
    draft_length: Annotated[int, typer.Option(min=1, help="Draft tokens with which that length is reached.")] = 3,
    drafter_layers: Annotated[
        int, typer.Option(min=0, help="Layers of the drafter; 0: drafts cost nothing (suffix, n-gram).")
    ] = 1,
    weights: Annotated[str, typer.Option(help="Format of the weights: bf16, fp8, ... Default: the best.")] = "",
    utilisation: Annotated[
        float, typer.Option(min=0.05, max=1.0, help="Share of a machine's most that it should serve.")
    ] = 0.7,
    dollars_per_hour: Annotated[
        float | None, typer.Option(help="Price of a machine with all its GPUs, for costs per token.")
    ] = None,
    json_file: options.Json = None,
    csv_file: options.Csv = None,
    html_file: options.Html = None,
) -> None:
    """Will it fit, in which format, how fast, on how many machines, for how much: from the model's configuration.

    Nothing is loaded and nothing is run; figures come from the roofline of the machine.
    """
    from paceline.bench.plan.plan import Wishes, make_plan
    from paceline.bench.plan.predict import Speculation, Traffic
    from paceline.bench.plan.report import plan_report
    from paceline.bench.publish import publish
    from paceline.models.configuration import read_configuration
    from paceline.models.families import model_spec

    with options.errors_in_one_line():
        check(cpu, gpu, tensor_parallel, qps, dollars_per_hour)
        configuration = read_configuration(model or None)
        spec = model_spec(configuration.config)
        machine, forms, notes = _machine(configuration, gpu, tensor_parallel, threads, spec.num_heads)
        wishes = Wishes(
            Traffic(tokens_in, tokens_out),
            Speculation.guess(acceptance_length, draft_length, drafter_layers),
            qps,
            utilisation,
            dollars_per_hour,
            concurrency,
        )
        found = make_plan(spec, machine, forms, wishes, weights, notes)
        report = plan_report(found, configuration.name, options.command_line())
        publish(report, json=json_file, csv=csv_file, html=html_file)
        if found.chosen is None:
            raise typer.Exit(1)


def check(cpu: bool, gpu: str, tensor_parallel: int, qps: float | None, dollars_per_hour: float | None) -> None:
    """Raises ``PacelineError`` for wishes that contradict each other or mean nothing."""
    from paceline.errors import PacelineError

    if cpu and gpu:
        raise PacelineError("--cpu and --gpu exclude each other; give one of them")
    if tensor_parallel > 1 and not gpu:
        raise PacelineError("--tensor-parallel is for GPUs; name one with --gpu")
    if qps is not None and qps <= 0:
        raise PacelineError(f"--qps {qps:g} must be more than 0")
    if dollars_per_hour is not None and dollars_per_hour < 0:
        raise PacelineError(f"--dollars-per-hour {dollars_per_hour:g} must not be negative")


def _machine(
    configuration: Configuration, gpu: str, count: int, threads: int | None, heads: int
) -> tuple[Machine, Sequence[Format], list[str]]:
    """The machine, the formats that the model can have there, and what should be said about them."""
    from paceline.bench.plan import formats, this_machine
    from paceline.bench.plan.devices import find_gpu
    from paceline.bench.plan.machines import check_parallel, gpu_machine

    notes = [f"Configuration: {configuration.reason}."]
    if not gpu:
        machine, bf16 = this_machine.this_cpu(threads)
        return machine, formats.cpu_formats(configuration, bf16), notes
    check_parallel(count, heads)
    if gpu == HERE:
        machine, device = this_machine.this_gpu(count)
    else:
        device = find_gpu(gpu)
        machine = gpu_machine(device, count)
    if configuration.tensors:
        notes.append("A GGUF file: planned in the formats that engines on GPUs have.")
    quantized = formats.quantized_bits(configuration.config)
    if quantized is not None:
        notes.append(f"The checkpoint is quantized already ({quantized[1]}, {quantized[0]:g} bits).")
    return machine, formats.gpu_formats(device, None if quantized is None else quantized[0]), notes
